"""Models that can be traced where every size is known, and nowhere else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import keras_distill as kd

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 16, 16, 2)).astype("float32")
DATA = tf.data.Dataset.from_tensor_slices(X).batch(4, drop_remainder=True)


class Doubled(keras.layers.Layer):
    """The head of a segmenter: the map resized by sizes that Python computes."""

    def call(self, x):
        return keras.ops.image.resize(x, (2 * x.shape[1], 2 * x.shape[2]))

    def compute_output_shape(self, shape):
        return (shape[0], *(axis and 2 * axis for axis in shape[1:3]), shape[3])


class Reshaped(keras.layers.Layer):
    """It counts the rows of the batch in Python."""

    def call(self, x):
        return keras.ops.reshape(x, (x.shape[0], x.shape[1] * x.shape[2], -1))

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] and shape[1] * shape[2], shape[3])


def segmenter(width, layer=Doubled, shape=(None, None, 2)):
    keras.utils.set_random_seed(width)
    inputs = keras.Input(shape)
    features = keras.layers.Conv2D(width, 3, padding="same", name="features")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(layer()(features)))


class Subclassed(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.features = keras.layers.Conv2D(width, 3, padding="same", name="features")
        self.head, self.out = Reshaped(), keras.layers.Dense(3)

    def call(self, x):
        return self.out(self.head(self.features(x)))


def called(width):
    keras.utils.set_random_seed(width)
    model = Subclassed(width)
    model(X[:2])
    return model


def soft_targets(student, teacher):
    """In float64, at temperature 2."""
    s, t = (
        special.log_softmax(np.asarray(m(X), "float64") / 2, axis=-1) for m in (student, teacher)
    )
    return np.mean(4 * np.sum(np.exp(t) * (t - s), axis=-1))


PAIRS = {
    "open sizes, both": lambda: (segmenter(3), segmenter(5)),
    "open sizes, the student alone": lambda: (segmenter(3), segmenter(5, shape=(16, 16, 2))),
    "open sizes, the teacher alone": lambda: (segmenter(3, shape=(16, 16, 2)), segmenter(5)),
    "rows, of models with an Input": lambda: [segmenter(w, Reshaped, (16, 16, 2)) for w in (3, 5)],
    "rows, of models built by a call": lambda: (called(3), called(5)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_they_teach_and_learn_as_they_train(name):
    student, teacher = PAIRS[name]()
    expected = soft_targets(student, teacher)
    objectives = [kd.SoftTargets(), kd.FeatureHint("features", "features")]
    distiller = kd.Distiller(student, teacher, objectives if "both" in name else None)
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.fit(DATA, verbose=0).history
    assert logs["soft_targets"][0] == pytest.approx(expected, rel=1e-4)


def test_what_is_fixed_and_what_is_open_is_known():
    teacher = kd.teachers.Model(segmenter(5))
    assert teacher.prepare(None, ()).logits.shape == (None, None, None, 3)
    assert teacher.engine_used == "keras"
    named = kd.teachers.Model(segmenter(5), input_spec=keras.KerasTensor((None, 16, 16, 2)))
    assert named.prepare(None, ()).logits.shape == (None, 32, 32, 3)
    assert named.engine_used == "frozen"


@pytest.mark.parametrize("options", [{"engine": "litert"}, {"precision": "bfloat16"}])
def test_what_needs_one_graph_for_all_sizes_is_refused(options):
    teacher = kd.teachers.Model(segmenter(5), **options)
    with pytest.raises(ValueError, match=r"only on known sizes.*input_spec"):
        teacher.prepare(None, ())


class OfSeven(Doubled):
    def call(self, x):
        if x.shape[1] != 7:
            raise ValueError("Only for seven.")
        return super().call(x)


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_model_that_runs_at_no_size_tried_says_which(kind):
    odd = segmenter(3, OfSeven)
    models = (odd, segmenter(5)) if kind == "student" else (segmenter(5), odd)
    with pytest.raises(ValueError, match="Only for seven") as caught:
        kd.Distiller(*models)
    (note,) = caught.value.__notes__
    assert "was traced on (None, None, None, 2)" in note
    named = kd.teachers.Model(odd, input_spec=keras.KerasTensor((None, 7, 7, 2)))
    assert named.prepare(None, ()).logits.shape == (None, 14, 14, 3)

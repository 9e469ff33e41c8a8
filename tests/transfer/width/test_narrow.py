"""Models cut by hand-picked channels: what is left computes what it computed before."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_distill.graph.copying import weight_paths
from keras_distill.transfer.width.channels import analyse
from keras_distill.transfer.width.narrow import narrow

rng = np.random.default_rng(0)


def randomise(model):
    """Statistics and scales that no layer starts with."""
    for variable in model.variables:
        if variable.path.endswith(("moving_variance", "gamma")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("moving_mean", "beta", "bias")):
            variable.assign(rng.uniform(-0.3, 0.3, variable.shape))
    return model


def answers(model, x):
    # Not predict(): the large families would be compiled four times each.
    return model(x, training=False).numpy()


def halves(channels):
    """Half of each group's free channels, drawn; equal numbers in each block."""
    kept = np.ones(channels.count, bool)
    for group in channels.groups:
        for part in np.unique(group.blocks):
            free = group.classes[(group.blocks == part) & ~group.fixed]
            kept[rng.choice(free, len(free) // 2, replace=False)] = False
    return kept


def silence(channels, kept):
    """Sets to zero whatever gives a value to a channel that will go."""
    for role in channels.roles.values():
        per_channel = isinstance(role.operation, layers.BatchNormalization | layers.PReLU)
        for path, variable in weight_paths(role.operation).items():
            axes = role.axes.get(path, (None,))
            value = variable.numpy()
            if path.endswith("moving_variance"):
                continue
            if role.made is None and not per_channel and not path.endswith("bias"):
                continue
            for place, axis in enumerate(axes):
                if axis is not None and (role.made is None or np.isin(axis, role.made).all()):
                    index = [slice(None)] * value.ndim
                    index[place] = ~kept[axis]
                    value[tuple(index)] = 0
            variable.assign(value)


def assert_cut_is_exact(model, x, tolerance=1e-5):
    channels = analyse(model)
    kept = halves(channels)
    assert not kept.all()
    silence(channels, kept)
    expected = answers(model, x)
    before = [v.numpy() for v in model.variables]
    small = narrow(model, channels, kept)
    given = answers(small, x)
    scale = np.abs(expected).max()
    assert scale > 1e-3, "a model that answers nothing proves nothing"
    np.testing.assert_allclose(given, expected, atol=tolerance * scale)
    assert small.count_params() < model.count_params()
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def image_model(body):
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    return keras.Model(x, layers.Dense(5, name="head")(layers.Flatten()(body(y))))


BODIES = {
    "grouped": lambda y: layers.Conv2D(16, 3, groups=4, name="grouped")(layers.ReLU()(y)),
    "depthwise by groups": lambda y: layers.Conv2D(16, 3, groups=8)(y),
    "multiplied depthwise": lambda y: layers.DepthwiseConv2D(3, depth_multiplier=2)(y),
    "separable": lambda y: layers.SeparableConv2D(6, 3, depth_multiplier=2)(y),
    "transposed": lambda y: layers.Conv2DTranspose(6, 3, strides=2)(y),
    "prelu": lambda y: layers.PReLU(shared_axes=(1, 2), alpha_initializer="uniform")(y),
    "unscaled norm": lambda y: layers.BatchNormalization(scale=False)(y),
    "upsampled": lambda y: layers.UpSampling2D()(layers.MaxPooling2D()(y)),
    "operators": lambda y: ops.relu(y) * 0.5 + ops.mean(y, axis=(1, 2), keepdims=True),
    "rows": lambda y: layers.Conv1D(6, 3, dilation_rate=2)(layers.Reshape((64, 8))(y)),
    "operator reshape": lambda y: layers.Dense(6)(ops.reshape(y, (-1, 64, 8))),
    "nested": lambda y: keras.Sequential(
        [keras.Input((8, 8, 8)), layers.Conv2D(6, 1), layers.BatchNormalization()], name="nested"
    )(y),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_silent_channels_can_go(body):
    keras.utils.set_random_seed(1)
    model = randomise(image_model(body))
    assert_cut_is_exact(model, rng.normal(size=(4, 8, 8, 3)).astype("float32"))


SEQUENCES = {
    "lstm": lambda y: layers.LSTM(6)(y),
    "gru": lambda y: layers.GRU(6)(y),
    "gru of one bias": lambda y: layers.GRU(6, reset_after=False)(y),
    "simple": lambda y: layers.SimpleRNN(6)(y),
    "both ways": lambda y: layers.Bidirectional(layers.LSTM(4))(y),
    "attention": lambda y: layers.GlobalMaxPooling1D()(
        layers.Add()([y, layers.MultiHeadAttention(2, 4)(y, y)])
    ),
}


@pytest.mark.parametrize("body", SEQUENCES.values(), ids=SEQUENCES)
def test_silent_channels_of_sequences_can_go(body):
    keras.utils.set_random_seed(2)
    x = keras.Input((6,), dtype="int32")
    y = layers.Embedding(20, 8, name="tokens")(x)
    model = keras.Model(x, layers.Dense(5, name="head")(body(y)))
    assert_cut_is_exact(model, rng.integers(0, 20, (8, 6)))


FAMILIES = {
    "MobileNetV2": {"alpha": 0.35},
    "ResNet50": {},
    "ResNet50V2": {},
    "DenseNet121": {},
    "EfficientNetB0": {},
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    keras.utils.set_random_seed(3)
    make = getattr(keras.applications, request.param)
    options = {"weights": None, "classes": 10, "classifier_activation": None}
    model = randomise(make(input_shape=(32, 32, 3), **options, **FAMILIES[request.param]))
    # Untrained logits are small; of order one they tell more.
    head = model.layers[-1]
    head.kernel.assign(head.kernel * 10)
    return model


@pytest.mark.slow
def test_a_family_of_keras_applications(family):
    x = rng.uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    channels = analyse(family)
    whole = narrow(family, channels, np.ones(channels.count, bool))
    np.testing.assert_array_equal(answers(whole, x), answers(family, x))
    assert [layer.name for layer in whole.layers] == [layer.name for layer in family.layers]
    assert_cut_is_exact(family, x)


def test_a_layer_whose_config_fixes_its_width_is_named():
    class Scale(layers.Layer):
        def __init__(self, width, **options):
            super().__init__(**options)
            self.width = width
            self.factor = self.add_weight(shape=(width,), name="factor")

        def call(self, x):
            return x * self.factor

        def get_config(self):
            return {**super().get_config(), "width": self.width}

    x = keras.Input((4,))
    y = Scale(6, name="scale")(layers.Dense(6, name="hidden")(x))
    model = keras.Model(x, layers.Dense(2, name="head")(y))
    channels = analyse(model, treat_as={"scale": "elementwise"})
    with pytest.raises(ValueError, match=r"(?s)'scale'.*"):
        narrow(model, channels, halves(channels))


def test_the_smaller_model_is_saved_and_loaded(tmp_path):
    model = randomise(image_model(BODIES["separable"]))
    channels = analyse(model)
    small = narrow(model, channels, halves(channels))
    small.save(tmp_path / "small.keras")
    x = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), small.predict(x, verbose=0))

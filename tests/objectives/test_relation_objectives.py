"""Objectives that compare the examples of a batch, inside a Distiller."""

import keras
import numpy as np
import pytest

import keras_distill as kd
from keras_distill import functional
from keras_distill.objectives import (
    CorrelationCongruence,
    ProbabilisticTransfer,
    RelationalKD,
    SimilarityPreserving,
)

FUNCTIONS = {
    SimilarityPreserving: functional.similarity_preserving,
    RelationalKD: functional.relational_kd,
    ProbabilisticTransfer: functional.probabilistic_transfer,
    CorrelationCongruence: functional.correlation_congruence,
}
every_kind = pytest.mark.parametrize("kind", FUNCTIONS, ids=lambda kind: kind.__name__)
rng = np.random.default_rng(0)
X = rng.normal(size=(9, 6)).astype("float32")


def network(width, seed):
    keras.utils.set_random_seed(seed)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((6,)), dense(width, "tanh", name="features"), dense(4)])


def features(model):
    return model.layers[0](X)


def logged(distiller, *data, **options):
    """The objective's value before any update."""
    (objective,) = distiller.objectives
    distiller.compile(keras.optimizers.SGD(0.0), loss=None)
    history = distiller.fit(*(data or (X,)), shuffle=False, verbose=0, **options).history
    return history[objective.name][0]


@every_kind
def test_without_layers_the_logits_are_compared(kind):
    student, teacher = network(3, 1), network(5, 2)
    expected = np.mean(FUNCTIONS[kind](student(X), teacher(X)))
    assert logged(kd.Distiller(student, teacher, kind())) == pytest.approx(expected, rel=1e-4)


@every_kind
def test_a_zero_weight_leaves_a_row_out_and_keeps_the_partner(kind):
    student, teacher = network(5, 1), network(5, 2)
    distiller = kd.Distiller(student, teacher, kind("features", "features"))
    weight = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0], "float32")
    values = np.asarray(FUNCTIONS[kind](features(student), features(teacher)))
    # Keras' reduction: the sum of value x weight over the batch's size.
    given = logged(distiller, X, np.zeros(9), sample_weight=weight, batch_size=9)
    assert given == pytest.approx(np.sum(values * weight) / 9, rel=1e-4)


@every_kind
def test_a_batch_of_one_is_refused_before_training_with_the_layers_named(kind):
    student = network(5, 1)
    before = student.get_weights()
    distiller = kd.Distiller(student, network(5, 2), kind("features", "features"))
    distiller.compile("adam", loss=None)
    match = rf"{kind.__name__}\('features', 'features'\).*one.*batch size"
    with pytest.raises(ValueError, match=match):
        distiller.fit(X, batch_size=1, verbose=0)
    for weight, expected in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_remainder_of_one_adds_nothing():
    student, teacher = network(3, 1), network(5, 2)
    distiller = kd.Distiller(student, teacher, SimilarityPreserving())
    expected = np.mean(functional.similarity_preserving(student(X[:8]), teacher(X[:8])))
    # The log is the mean over 9 examples, of which the last, alone in its batch, counts zero.
    assert logged(distiller, batch_size=8) == pytest.approx(expected * 8 / 9, rel=1e-4)


@every_kind
def test_one_layer_alone_is_refused(kind):
    with pytest.raises(ValueError, match="a layer of both models, or of neither"):
        kind("features")


def test_correlation_brings_the_student_to_the_teachers_width():
    student, teacher = network(3, 1), network(5, 2)
    objective = CorrelationCongruence("features", "features")
    distiller = kd.Distiller(student, teacher, objective)
    (embedding,) = distiller._adapters.values()
    expected = functional.correlation_congruence(embedding(features(student)), features(teacher))
    assert logged(distiller) == pytest.approx(np.mean(expected), rel=1e-4)
    assert not any(embedding.kernel is v for v in student.variables)
    equal = kd.Distiller(network(5, 1), teacher, CorrelationCongruence("features", "features"))
    assert equal._adapters == {}


def test_correlation_embeds_both_sides_in_a_width_that_is_given():
    student, teacher = network(5, 1), network(5, 2)
    objective = CorrelationCongruence("features", "features", width=2)
    distiller = kd.Distiller(student, teacher, objective)
    ours, theirs = distiller._adapters.values()
    assert ours.kernel.shape == theirs.kernel.shape == (5, 2)
    trained = {id(v) for v in distiller.trainable_variables}
    assert {id(ours.kernel), id(theirs.kernel)} <= trained
    expected = functional.correlation_congruence(ours(features(student)), theirs(features(teacher)))
    assert logged(distiller) == pytest.approx(np.mean(expected), rel=1e-4)


def test_correlation_refuses_what_it_can_not_embed():
    layers = keras.layers
    inputs = keras.Input((None, None, 1))
    outputs = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1, name="map")(inputs))
    model = keras.Model(inputs, outputs)
    objective = CorrelationCongruence("map", "map", width=8)
    with pytest.raises(ValueError, match=r"\('map', 'map'\): a layer of unknown size"):
        kd.Distiller(model, model, objective)
    with pytest.raises(ValueError, match="width must be a whole number of at least 1; got 0"):
        CorrelationCongruence("map", "map", width=0)


def test_maps_of_any_size_serve_the_methods_that_compare_no_widths():
    def convolutional(filters, seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((None, None, 1))
        x = keras.layers.Conv2D(filters, 3, name="map")(inputs)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    images = rng.normal(size=(5, 7, 6, 1)).astype("float32")
    student, teacher = convolutional(2, 1), convolutional(3, 2)
    distiller = kd.Distiller(student, teacher, SimilarityPreserving("map", "map"))
    maps = [model.get_layer("map")(images) for model in (student, teacher)]
    expected = np.mean(functional.similarity_preserving(*maps))
    assert logged(distiller, images) == pytest.approx(expected, rel=1e-4)


def test_factors_must_not_be_negative():
    with pytest.raises(ValueError, match="angle_weight must be finite and at least 0; got -1"):
        RelationalKD(angle_weight=-1.0)

"""Patient states: which position of which layers is compared, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.objectives import PatientStates

RNG = np.random.default_rng(0)


def signals(**layers):
    """Signals of layers' outputs, each of four examples."""
    return kd.Signals(tf.zeros((4, 2)), {k: tf.constant(v) for k, v in layers.items()})


def spec(**shapes):
    """Signals to build with."""
    layers = {name: keras.KerasTensor((None, *shape)) for name, shape in shapes.items()}
    return kd.Signals(keras.KerasTensor((None, 2)), layers)


def distance(ours, theirs):
    """Of two batches of states, by the formula."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, theirs)]
    return np.mean((unit[0] - unit[1]) ** 2, axis=1)


@pytest.mark.parametrize("position", [0, 2, -1])
def test_one_position_of_the_paired_layers_is_compared_whatever_the_lengths(position):
    objective = PatientStates(
        ["a", "b"], ["v", "w", "x", "y"], mapping="uniform", position=position
    )
    # The teacher's text is longer; one of its layers gives the state alone.
    ours = {name: RNG.normal(size=(4, 5, 6)) for name in "ab"}
    theirs = {"w": RNG.normal(size=(4, 7, 6)), "y": RNG.normal(size=(4, 6))}
    made = objective.build(spec(a=(5, 6), b=(None, 6)), spec(w=(7, 6), y=(6,)))
    assert made == {}
    expected = [
        distance(ours["a"][:, position], theirs["w"][:, position]),
        distance(ours["b"][:, position], theirs["y"]),
    ]
    given = objective(signals(**ours), signals(**theirs), None)
    np.testing.assert_allclose(given, np.mean(expected, axis=0), rtol=1e-6)


def test_unequal_widths_are_projected_pair_by_pair():
    objective = PatientStates({"a": "a", "b": "b"})
    made = objective.build(spec(a=(5, 3), b=(5, 6)), spec(a=(5, 6), b=(5, 6)))
    assert {name: layer.kernel.shape for name, layer in made.items()} == {"adapter_0": (3, 6)}
    ours = {"a": RNG.normal(size=(4, 5, 3)), "b": RNG.normal(size=(4, 5, 6))}
    theirs = {name: RNG.normal(size=(4, 5, 6)) for name in "ab"}
    projected = ours["a"][:, 0] @ made["adapter_0"].kernel.numpy()
    expected = distance(projected, theirs["a"][:, 0]) + distance(ours["b"][:, 0], theirs["b"][:, 0])
    given = objective(signals(**ours), signals(**theirs), None)
    np.testing.assert_allclose(given, expected / 2, rtol=1e-4)


@pytest.mark.parametrize("mapping", ["uniform", "skip", "last"])
def test_a_saved_one_knows_the_layers_that_its_mapping_chose(mapping):
    objective = PatientStates(["a", "b"], list("uvwxyz"), mapping=mapping)
    config = keras.saving.serialize_keras_object(objective)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.teacher_taps == objective.teacher_taps
    assert len(copy.teacher_taps) == 2


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((5, 6), (2, 6), r"\(None, 2, 6\): there is no position 3 among 2"),
        ((2, 5, 5), (5, 6), r"is \(None, 2, 5, 5\) and .*\(None, 5, 6\)\. Name layers that give"),
        ((5, 6), (5, None), r"\(None, 5, None\)\. Name layers .* of a width that is known"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both_layers_named(student, teacher, message):
    objective = PatientStates("a", "b", position=3)
    with pytest.raises(ValueError, match=rf"PatientStates\('a', 'b'\): .*{message}"):
        objective.build(spec(a=student), spec(b=teacher))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student": ["a", "b"], "teacher": "x"}, r"PatientStates: 2 layers .* and 1 .*mapping="),
        ({"student": "a"}, "PatientStates: name layers of both models"),
        ({"student": "a", "teacher": "x", "position": 0.5}, "position must be a whole number.*0.5"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatientStates(**arguments)


def test_a_mask_is_no_argument_of_it():
    with pytest.raises(TypeError, match="mask"):
        PatientStates("a", "b", mask="tokens")

"""Every Objective of the package as a specimen: instances, and inputs made from what they take."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil

import keras
import numpy as np
import tensorflow as tf

from keras_distill import objectives as package
from keras_distill.objectives import Objective, Signals

BATCH, CLASSES, ROWS = 6, 5, 16

# What a layer gives, by the first word of its name; "map_2" has the second shape of "map".
LAYERS = {
    "map": [(4, 4, 6), (2, 2, 8), (1, 1, 10)],
    "vector": [(6,), (8,), (10,)],
    "sequence": [(5, 6)] * 3,
    "attention": [(2, 5, 5)] * 3,
    "mask": [(5,)] * 3,
    "row": [()] * 3,
}
# Answers by example, by pixel and by token: an objective gets the first that its build accepts.
ANSWERS = [(CLASSES,), (4, 4, CLASSES), (5, CLASSES)]


def found():
    """Every concrete Objective defined in the package, by name."""
    kinds = {}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and issubclass(kind, Objective) and _is_final(kind):
                kinds[kind.__name__] = kind
    return [kinds[name] for name in sorted(kinds)]


def _is_final(kind):
    concrete = kind.__call__ is not Objective.__call__ and not kind.__name__.startswith("_")
    return concrete and kind.__module__.startswith(package.__name__)


@dataclasses.dataclass(frozen=True)
class Specimen:
    """One class with the arguments of one of its examples."""

    kind: type
    arguments: dict
    number: int

    def __str__(self):
        return self.kind.__name__ + (f"-{self.number}" if self.number else "")

    def new(self, **options):
        """An instance, not built."""
        parameters = inspect.signature(self.kind).parameters.values()
        missing = {
            p.name: "map"
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
        return self.kind(**{**missing, **self.arguments, **options})

    @functools.cached_property
    def answer(self):
        """The shape of the logits, without the batch, that this objective takes."""
        for shape in ANSWERS:
            try:
                build(self.new(), shape)
            except ValueError as error:
                refused = error
            else:
                return shape
        raise refused

    @functools.cached_property
    def taps(self):
        """The layers that it reads in either model."""
        objective = self.new()
        return tuple(dict.fromkeys((*objective.student_taps, *objective.teacher_taps)))

    @property
    def sees_layers(self):
        """False also where no instance can be made: its tests say so, and no other is kept back."""
        try:
            return bool(self.taps)
        except Exception:
            return False

    def signals(self, rng, dtype="float64", scale=1.0, batch=BATCH, **altered):
        """What a model might say of a batch: random logits, and every layer that is tapped."""
        answer, shapes = shapes_of(self.taps, self.answer, **altered)
        return Signals(
            tf.cast(rng.normal(0, 2 * scale, (batch, *answer)), dtype),
            {name: _layer(name, rng, (batch, *s), scale, dtype) for name, s in shapes.items()},
        )

    def labels(self, rng, batch=BATCH):
        """Labels of the kind that the class declares."""
        if self.kind.label_kind == "values":
            return tf.constant(rng.normal(0, 2, (batch, *self.answer)))
        return tf.constant(rng.integers(0, CLASSES, (batch, *self.answer[:-1])))

    def built(self, **altered):
        """An instance built for this teacher, callable on two Signals and the labels."""
        return Repeatable(self.new(), self.answer, **altered)


class Repeatable:
    """A built objective whose state (adapters, queues) is the same before every call."""

    def __init__(self, objective, answer, **altered):
        self.objective = objective
        self._layers = list(build(objective, answer, **altered).values())
        self._state = [(v, v.numpy()) for layer in self._layers for v in layer.variables]

    def __call__(self, student, teacher, labels):
        self.reset()
        return self.objective(student, teacher, labels)

    @property
    def mixes_the_batch(self):
        """True where an adapter normalises by the batch's statistics, as the models' own do."""
        return any(
            isinstance(inner, keras.layers.BatchNormalization)
            for layer in self._layers
            for inner in layer._flatten_layers()
        )

    def reset(self):
        """Every variable as `build` left it."""
        for variable, value in self._state:
            variable.assign(value)

    def variables(self):
        """Every variable's value as it is now."""
        return [variable.numpy() for variable, _ in self._state]


def build(objective, answer, **altered):
    """Build an objective, the teacher's shapes as they are or altered; returns its adapters."""
    keras.utils.set_random_seed(0)
    student = shapes_of(objective.student_taps, answer)
    teacher = shapes_of(objective.teacher_taps, answer, **altered)
    return objective.build(_spec(*student), _spec(*teacher))


def shapes_of(taps, answer, *, classes=CLASSES, widths=1, sizes=1, drop_axis=False):
    """Shapes, without the batch, of a model's answer and of its layers; altered if asked for."""
    layers = {}
    for name in taps:
        word, _, number = name.partition("_")
        if word == "row":
            layers[name] = ()
            continue
        *inner, width = LAYERS[word][int(number or 1) - 1]
        inner = [size * sizes for size in inner]
        layers[name] = (*inner[: -1 if drop_axis else None], width * widths)
    return (*answer[:-1], classes), layers


def refusal(specimen, **altered):
    """What an instance says when it is built for a teacher so altered, or None."""
    try:
        build(specimen.new(), specimen.answer, **altered)
    except ValueError as error:
        return str(error)
    return None


@functools.lru_cache
def model(answer, taps, seed, widths=1):
    """A model of eight features with the layers named by `taps`, and answers of this shape."""
    keras.utils.set_random_seed(seed)
    features = keras.Input((8,))
    _, shapes = shapes_of(taps, answer, widths=widths)
    layers = [_random_layer(features, shape, name) for name, shape in shapes.items()]
    flat = [keras.ops.cast(keras.layers.Flatten()(layer), "float32") for layer in layers]
    flat = flat or [features]
    merged = keras.layers.Concatenate()(flat) if flat[1:] else flat[0]
    logits = keras.layers.Dense(int(np.prod(answer)))(merged)
    return keras.Model(features, keras.layers.Reshape(answer)(logits))


def specimens():
    """All there are."""
    return [
        Specimen(kind, dict(arguments), number)
        for kind in found()
        for number, arguments in enumerate(kind.examples)
    ]


def permuted(signals, order):
    """The same examples in another order."""
    return mapped(lambda tensor: tf.gather(tensor, order), signals)


def mapped(function, signals):
    """Signals with a function applied to each tensor."""
    taps = {key: function(tensor) for key, tensor in signals.taps.items()}
    return Signals(function(signals.logits), taps)


def tensors(signals):
    """Every tensor of Signals, logits first."""
    return [signals.logits, *signals.taps.values()]


def from_tensors(flat, like):
    """Signals of tensors in the order of `tensors`."""
    return Signals(flat[0], dict(zip(like.taps, flat[1:], strict=True)))


def cast(signals, dtype):
    """Signals of this precision; what holds integers stays."""
    return mapped(lambda t: tf.cast(t, dtype) if t.dtype.is_floating else t, signals)


class Mask(keras.layers.Layer):
    """1 where a token is, 0 where padding is; the first is always a token."""

    def call(self, scores):
        first = keras.ops.arange(scores.shape[-1]) == 0
        return keras.ops.cast(keras.ops.logical_or(first, scores > 0), "int32")


class Row(keras.layers.Layer):
    """An example's row among all."""

    def call(self, scores):
        return keras.ops.cast(keras.ops.argmax(scores, axis=-1), "int32")


def _layer(name, rng, shape, scale, dtype):
    if name.startswith("row"):
        return tf.constant(rng.integers(0, ROWS, shape), "int32")
    values = rng.normal(0, scale, shape)
    if name.startswith("mask"):
        return Mask()(values)
    if name.startswith("attention"):
        values = np.exp(values / scale)
        values /= values.sum(-1, keepdims=True)
    return tf.cast(values, dtype)


def _random_layer(features, shape, name):
    if name.startswith("row"):
        return Row(name=name)(keras.layers.Dense(ROWS)(features))
    hidden = keras.layers.Dense(int(np.prod(shape)))(features)
    if name.startswith("mask"):
        return Mask(name=name)(hidden)
    if name.startswith("attention"):
        return keras.layers.Softmax(name=name)(keras.layers.Reshape(shape)(hidden))
    return keras.layers.Reshape(shape, name=name)(hidden)


def _spec(answer, taps):
    dtypes = {key: "int32" if key.startswith("row") else "float32" for key in taps}
    layers = {k: keras.KerasTensor((None, *shape), dtypes[k]) for k, shape in taps.items()}
    return Signals(keras.KerasTensor((None, *answer)), layers)

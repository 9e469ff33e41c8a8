"""Self-distillation inside one model: its deepest output teaches the earlier ones."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_distill.data import no_keras3_model
from keras_distill.objectives import Objective, Signals, SoftTargets
from keras_distill.training.joint import JointDistiller, Peers
from keras_distill.training.saving import revive

__all__ = ["SelfDistiller", "with_exits"]


def with_exits(
    model: keras.Model, layers: Sequence[str], *, make_exit: Callable[[Any], Any] | None = None
) -> keras.Model:
    """The same model with an exit after each of the layers; its own output is called "final".

    The layers are the model's own, weights and all: training the one trains the other.

    Args:
      model: a functional or sequential model of one output, `(batch, classes)`.
      layers: names of its layers, in order of depth; an exit is called `exit_` and the name.
      make_exit: from the layer's output to logits; None averages over every axis between batch and
        channels, and puts a Dense layer on it.

    Raises:
      ValueError: a model without a graph or of several outputs; a layer that it does not have.

    >>> image = keras.Input((8, 8, 1))
    >>> x = keras.layers.Conv2D(4, 3, name="early")(image)
    >>> logits = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    >>> list(with_exits(keras.Model(image, logits), ["early"]).output)
    ['exit_early', 'final']
    """
    _check_model("with_exits", model)
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1:
        raise ValueError(
            f"with_exits needs a functional or sequential model of one output; {model.name!r} has "
            f"{len(outputs)}."
        )
    known = [layer.name for layer in model.layers]
    if strangers := [name for name in layers if name not in known]:
        raise ValueError(
            f"with_exits: {model.name!r} has no layer {', '.join(map(repr, strangers))}; its "
            f"layers are {', '.join(known)}."
        )
    classes = outputs[0].shape[-1]
    exits = {
        f"exit_{name}": make_exit(tapped) if make_exit else _exit(tapped, classes, name)
        for name in layers
        for tapped in [model.get_layer(name).output]
    }
    return keras.Model(model.inputs, {**exits, "final": outputs[0]}, name=f"{model.name}_exits")


def _check_model(asker: str, model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(no_keras3_model(model, f"{asker}: expected a Keras 3 model (keras.Model)"))


@keras.saving.register_keras_serializable("keras_distill")
class SelfDistiller(JointDistiller):
    """Trains a model of several exits, its deepest one the teacher of the others.

    `total = label_weight * sum of the exits' label losses + (1 - label_weight) * sum(weight *
    objective)`, each objective added over the exits but the deepest, which learns from the labels
    alone and whose answer is a constant to the others. One forward serves all.

    Args:
      model: a model of several outputs over the same classes, such as `with_exits` makes.
      objectives: as `Distiller`; None means `[SoftTargets(temperature=3.0)]`. Layers are the
        model's own on both sides: `FeatureHint("block1", "block3")`.
      deepest: the teaching output's name; None for the last.
      label_weight: the share of the label losses.
      student_preprocess, student_output: as `Distiller`.

    Raises:
      ValueError: no dict of two outputs or more, or a deepest one that is not among them.

    Source: Zhang et al., "Be Your Own Teacher", ICCV 2019, section 3. There the label losses of
    the earlier exits count 0.7 and the deepest one's counts 1; here `label_weight` is one share for
    all.

    >>> inputs = keras.Input((4,))
    >>> early = keras.layers.Dense(8, "relu", name="early")(inputs)
    >>> model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(8)(early)))
    >>> both = SelfDistiller(with_exits(model, ["early"]))
    >>> both.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> logs = both.fit(keras.ops.ones((8, 4)), keras.ops.zeros((8,), "int32"), verbose=0)
    >>> both.up_to("exit_early").count_params() < both.student.count_params()
    True
    """

    def __init__(
        self,
        model: keras.Model,
        objectives: Objective | Sequence[Objective] | None = None,
        *,
        deepest: str | None = None,
        label_weight: Any = 0.7,
        student_preprocess: Any = None,
        student_output: Any = "auto",
        name: str = "self_distiller",
    ):
        _check_model("SelfDistiller", model)
        outputs = getattr(model, "output", None)
        names = list(outputs) if isinstance(outputs, Mapping) else []
        if len(names) < 2:
            raise ValueError(
                f"SelfDistiller needs a model of several outputs in a dict; {model.name!r} gives "
                f"{type(outputs).__name__}. with_exits(model, layers) adds them."
            )
        teaching = names[-1] if deepest is None else deepest
        if teaching not in names:
            raise ValueError(
                f"deepest={deepest!r} names no output of {model.name!r}; its outputs are "
                f"{', '.join(map(repr, names))}."
            )
        super().__init__(
            model,
            Peers(model, student_output, functools.partial(_pairs, deepest=teaching)),
            [SoftTargets(temperature=3.0)] if objectives is None else objectives,
            label_weight=label_weight,
            student_preprocess=student_preprocess,
            student_output=student_output,
            name=name,
        )
        self._deepest = teaching

    @property
    def deepest(self) -> str:
        """The output that teaches."""
        return self._deepest

    def get_config(self) -> dict:
        config = super().get_config()
        model = config.pop("student")
        return {**config, "model": model, "deepest": self._deepest}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "SelfDistiller":
        """The distiller that `get_config` described, ready to train on."""
        revived = ("model", "objectives", "label_weight", "student_preprocess")
        return cls(**{**config, **revive(config, revived, custom_objects)})

    def up_to(self, name: str) -> keras.Model:
        """The trained model from its input to one of its exits, sharing its weights."""
        return keras.Model(self.student.inputs, self.student.output[name], name=name)


def _exit(tapped: Any, classes: int, name: str) -> Any:
    axes = tuple(range(1, len(tapped.shape) - 1))
    pooled = keras.ops.mean(tapped, axis=axes) if axes else tapped
    return keras.layers.Dense(classes, name=f"exit_{name}_logits")(pooled)


def _pairs(signals: Signals, deepest: str) -> list[tuple[Signals, Signals]]:
    """The earlier exits, and the deepest one's answer for each of them."""
    exits = [name for name in signals.heads if name != deepest]
    learner = signals.speaking_for({name: name for name in exits})
    teacher = signals.speaking_for(dict.fromkeys(exits, deepest))
    return [(learner, teacher)]

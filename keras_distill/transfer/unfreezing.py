"""Fine-tuning that begins with the last of the copied layers and goes down, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_distill import _keras
from keras_distill.training.distiller import Distiller
from keras_distill.transfer.copying.matching import find_all
from keras_distill.transfer.copying.weighted import kind, parts_of, weighted_layers
from keras_distill.transfer.report import TransferReport

ORDERS = ("last_first", "first_first")


class GradualUnfreezing(keras.callbacks.Callback):
    """Freezes layers and lets them train again stage by stage, one every so many epochs.

    A stage is a layer with the normalisations behind it, a nested model, or a group that you name;
    what is not named trains as it did. Works in `Model.fit` and `Distiller.fit`. It freezes by
    itself: `copy_layers(freeze=)` is not needed. The stages follow the epoch's number, so that
    `initial_epoch` and `BackupAndRestore` go on where they were; after `fit`, `trainable` is as
    the last epoch had it. The training step is traced anew at each change.

    Adam counts its updates for all weights together, so that it corrects the first ones of a late
    layer too little: they can be over six times the learning rate. Lower it meanwhile, or use SGD.

    Args:
      layers: a `TransferReport` (the layers that it says were copied or cut), or layers of the
        student: paths, ends of paths, layers, names of nested models; a list of these among them
        is one stage.
      every: epochs from one stage to the next.
      start: epochs in which all of them are frozen.
      step: how many stages come in at a time.
      order: "last_first", from the output down, or "first_first".

    Raises:
      TypeError, ValueError: a number that is none of these; no layers. When `fit` begins: a layer
        that is not there or in two stages; an optimiser that was built while a layer was frozen,
        or keeps averages of weights; nothing left to train.

    Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning", section 3.3.

    >>> callback = GradualUnfreezing(["low", "middle", "high"], every=2)
    >>> [callback.unfrozen(epoch) for epoch in range(6)]
    [0, 1, 1, 2, 2, 3]
    """

    def __init__(
        self,
        layers: Any,
        *,
        every: int = 1,
        start: int = 1,
        step: int = 1,
        order: str = "last_first",
    ):
        super().__init__()
        self._asked = _asked(layers)
        self.every = _count(every, "every", 1)
        self.start = _count(start, "start", 0)
        self.step = _count(step, "step", 1)
        if order not in ORDERS:
            raise ValueError(f"order is {' or '.join(map(repr, ORDERS))}; got {order!r}.")
        self.order = order
        self._stages: list[list[Any]] = []
        self._holders: list[Any] = []

    def unfrozen(self, epoch: int) -> int:
        """How many stages train in an epoch, counted from 0; at most as many as there are."""
        if epoch < self.start:
            return 0
        count = self.step * ((epoch - self.start) // self.every + 1)
        return min(count, len(self._stages or self._asked))

    # Before any callback's on_train_begin: BackupAndRestore fills the optimiser's variables there.
    def set_model(self, model: Any) -> None:
        super().set_model(model)
        student = model.student if isinstance(model, Distiller) else model
        stages = _stages(weighted_layers(student), self._asked)
        self._stages = stages[::-1] if self.order == "last_first" else stages
        self._holders = _holders(model, self._layers())
        if model.optimizer is not None:
            self._build_optimizer(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        count = self.unfrozen(epoch)
        if self._set([place < count for place in range(len(self._stages))]):
            # The traced step knows the weights that it trains.
            self.model.make_train_function(force=True)
        if not self.model.trainable_variables:
            raise ValueError(
                f"Epoch {epoch} has nothing to train: all layers are frozen. Leave the head out of "
                f"layers=, or give start=0 to begin with the first stage."
            )

    def _layers(self) -> list[Any]:
        return [layer for stage in self._stages for layer in stage]

    def _set(self, trainable: Sequence[bool]) -> bool:
        """Sets each stage's flag; whether anything changed."""
        changed = False
        for stage, wanted in zip(self._stages, trainable, strict=True):
            for layer in stage:
                if layer.trainable != wanted:
                    layer.trainable = wanted
                    changed = True
        _open(self._holders)
        return changed

    def _build_optimizer(self, model: Any) -> None:
        """An optimiser knows the weights that it was built for, and must know them all."""
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        if inner.use_ema:
            raise ValueError(
                "The optimiser keeps moving averages (use_ema=True) of frozen weights too and "
                "would write them back. Leave use_ema out while layers are frozen."
            )
        with _all_trainable(self._layers(), self._holders):
            variables = model.trainable_variables
        if not model.optimizer.built:
            model.optimizer.build(variables)
            return
        try:
            _keras.check_known(model.optimizer, variables)
        except ValueError:
            raise ValueError(
                "The optimiser was built while layers were frozen that are to train later, and "
                "can't take them in. Call compile() again before this fit; and don't freeze "
                "beforehand: this callback does."
            ) from None


def _asked(layers: Any) -> list[Any]:
    if isinstance(layers, TransferReport):
        taken = [row.layer for row in layers.rows if row.layer in layers.copied + layers.cut]
        layers = list(dict.fromkeys(taken))
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise TypeError(
            f"layers is a TransferReport or a list of the student's layers; got {layers!r}."
        )
    if not layers:
        raise ValueError("There are no layers to unfreeze: the list, or the report, names none.")
    return list(layers)


def _count(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is a whole number of at least {least}; got {value!r}.")
    return value


def _stages(layers: Mapping[str, Any], asked: Sequence[Any]) -> list[list[Any]]:
    """The layers of each stage, in the order of execution."""
    places = list(layers)
    stages = []
    for one in asked:
        group = isinstance(one, (list, tuple))
        parts = one if group else [one]
        paths = [path for part in parts for path in find_all(layers, part, "student")]
        stages.append((sorted(paths, key=places.index), group))
    stages.sort(key=lambda stage: places.index(stage[0][0]))
    _check_once([path for paths, _ in stages for path in paths])
    merged: list[list[str]] = []
    for paths, group in stages:
        if merged and not group and all(_normalises(layers[path]) for path in paths):
            merged[-1] += paths
        else:
            merged.append(paths)
    return [[layers[path] for path in paths] for paths in merged]


def _check_once(paths: Sequence[str]) -> None:
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ValueError(f"layers names {', '.join(twice)} more than once. A layer has one stage.")


def _normalises(layer: Any) -> bool:
    return kind(layer).endswith("Normalization")


def _holders(model: Any, layers: Sequence[Any]) -> list[Any]:
    """What the layers are in, the model itself included."""
    inner = {id(part) for layer in layers for part in parts_of(layer)}
    return [
        holder
        for holder in _keras.layers_of(model)
        if id(holder) not in inner
        and any(id(part) in inner for part in _keras.layers_of(holder, itself=False))
    ]


def _open(holders: Sequence[Any]) -> None:
    for holder in holders:
        _keras.set_flag(holder, True)


@contextmanager
def _all_trainable(layers: Sequence[Any], holders: Sequence[Any]) -> Iterator[None]:
    flags = [(layer, layer.trainable) for layer in layers]
    held = [(holder, _keras.flag(holder)) for holder in holders]
    _open(holders)
    for layer in layers:
        layer.trainable = True
    try:
        yield
    finally:
        for layer, flag in flags:
            layer.trainable = flag
        for holder, flag in held:
            _keras.set_flag(holder, flag)

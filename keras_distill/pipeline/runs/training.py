"""A stage's training: compiled, fitted, and after each epoch kept so that it can go on."""

import importlib.util
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill import _files
from keras_distill.pipeline.distilling import label_loss, named_loss
from keras_distill.pipeline.recipes.named import optimizer
from keras_distill.pipeline.recipes.stages import Learning, Training
from keras_distill.pipeline.runs.batches import Batches
from keras_distill.pipeline.runs.examples import Examples
from keras_distill.signals.reader import student_reader
from keras_distill.training.stages import UsageError

__all__ = ["Lasting", "compile_for", "epochs_of", "fit", "steps_of"]

VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Lasting:
    """Where a training keeps itself, and who hears of it.

    Args:
      state: a file that holds all of the training after each epoch; gone when the stage is whole.
      log: a file of JSON lines, one an epoch.
      board: TensorBoard's folder.
      mark: what the state belongs to; another one's is not taken up.
      heard: called with (batches done, batches in all, the last epoch's figures).
      callbacks: the user's.
    """

    state: Path
    log: Path
    board: Path
    mark: str
    heard: Callable[[int, int, Mapping[str, float]], None]
    callbacks: Sequence[keras.callbacks.Callback] = ()


def steps_of(stage: Training, examples: Examples) -> int:
    """Batches an epoch: as many as all training examples make."""
    return -(-len(examples.train) // stage.batch_size)


def epochs_of(stage: Any) -> int:
    """Epochs of a stage; 0 where it trains nothing."""
    return stage.epochs if isinstance(stage, Training) else 0


def compile_for(model: keras.Model, stage: Training, examples: Examples, trained: Any) -> None:
    """Give what is trained its optimiser, loss and metrics.

    Args:
      model: what answers: the student.
      stage: see there.
      examples: see there.
      trained: the model, or the Distiller around it.

    Raises:
      UsageError: the loss does not fit.
    """
    steps = stage.epochs * steps_of(stage, examples)
    rate: Any = stage.learning_rate
    if stage.decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, decay_steps=max(1, steps))
    try:
        chosen = optimizer(stage.optimizer, rate, stage.optimizer_arguments)
    except ValueError as error:
        raise UsageError(f"{stage.title}: optimizer_arguments: {error}") from error
    unlabelled = isinstance(stage, Learning) and stage.teachers and stage.label_weight == 0
    kinds = set(student_reader(model).kinds.values())
    if len(kinds) != 1:
        raise UsageError(f"{stage.title}: a recipe trains models of one output.")
    (kind,) = kinds
    if unlabelled:
        loss = None
    elif stage.loss is not None:
        loss = named_loss(stage.loss, kind)
    elif examples.classes:
        loss = label_loss(kind, examples.train.y[:32], examples.units)
    else:
        loss = keras.losses.MeanSquaredError()
    metrics = ["accuracy"] if examples.classes else ["mae"]
    trained.compile(optimizer=chosen, loss=loss, metrics=metrics)


def fit(
    trained: Any, stage: Training, examples: Examples, seed: int, lasting: Lasting, data: Any = None
) -> dict[str, list[float]]:
    """Train, from where an earlier call was stopped.

    Args:
      trained: compiled.
      stage, examples: see there.
      seed: of the order.
      lasting: see there.
      data: a teacher cache's batches, in place of the examples.

    Returns:
      The history: a list by epoch for each figure.
    """
    epoch, history = _taken_up(trained, lasting)
    if data is None:
        data = _batches(stage, examples, seed, epoch)
    keeper = _Keeper(trained, stage, lasting, history, steps_of(stage, examples), epoch)
    if epoch < stage.epochs:
        trained.fit(
            data,
            validation_data=(examples.validation.x, examples.validation.y),
            validation_batch_size=VALIDATION_BATCH,
            epochs=stage.epochs,
            initial_epoch=epoch,
            shuffle=False,
            verbose=0,
            callbacks=[*lasting.callbacks, *_board(lasting), keeper],
        )
    return history


def _batches(stage: Training, examples: Examples, seed: int, epoch: int) -> Batches:
    x = examples.train.x
    y = examples.train.y if stage.labels == "all" else examples.known
    if not isinstance(stage, Learning) or not stage.teachers:
        labelled = y >= 0 if examples.classes else slice(None)
        x, y = x[labelled], y[labelled]
    return Batches(
        x,
        y,
        batch_size=stage.batch_size,
        steps=steps_of(stage, examples),
        seed=seed,
        epoch=epoch,
        augment=stage.augment,
    )


def _board(lasting: Lasting) -> list[keras.callbacks.Callback]:
    # TensorFlow 2.20 and later come without it.
    if importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(str(lasting.board), write_graph=False)]


class _Keeper(keras.callbacks.Callback):
    """Last of the callbacks: after each epoch history and state are whole on disk."""

    def __init__(self, trained, stage, lasting, history, steps, epoch):
        super().__init__()
        self._trained, self._lasting, self._history = trained, lasting, history
        self._steps, self._all = steps, steps * stage.epochs
        self._done, self._last = steps * epoch, {}
        self._begin = time.monotonic()
        lines = [json.dumps({"epoch": i + 1, **self._row(i)}) for i in range(epoch)]
        lasting.log.parent.mkdir(parents=True, exist_ok=True)
        _files.write(lasting.log, "".join(f"{line}\n" for line in lines).encode())

    def _row(self, epoch):
        return {name: values[epoch] for name, values in self._history.items()}

    def on_train_batch_end(self, batch, logs=None):
        """Say how far it is."""
        self._done += 1
        self._lasting.heard(self._done, self._all, self._last)

    def on_epoch_end(self, epoch, logs=None):
        """Keep it."""
        self._last = {name: float(value) for name, value in (logs or {}).items()}
        for name, value in self._last.items():
            self._history.setdefault(name, []).append(value)
        with self._lasting.log.open("a", encoding="utf-8") as file:
            seconds = round(time.monotonic() - self._begin, 3)
            file.write(json.dumps({"epoch": epoch + 1, **self._last, "seconds": seconds}) + "\n")
        _keep(self._trained, self._lasting, epoch + 1, self._history)


def _variables(trained: Any) -> list[Any]:
    """All that a training changes: weights, seeds' states, adapters, the optimiser."""
    found = [*trained.variables, *trained.optimizer.variables]
    return list({id(one): one for one in found}.values())


def _keep(trained: Any, lasting: Lasting, epoch: int, history: Mapping[str, Any]) -> None:
    arrays: dict[str, Any] = {f"v{i}": _array(one) for i, one in enumerate(_variables(trained))}
    record = json.dumps({"mark": lasting.mark, "epoch": epoch, "history": history}).encode()
    buffer = io.BytesIO()
    np.savez(buffer, record=np.frombuffer(record, np.uint8), **arrays)
    _files.write(lasting.state, buffer.getbuffer())


def _taken_up(trained: Any, lasting: Lasting) -> tuple[int, dict[str, list[float]]]:
    """The epochs that an earlier call has finished, whose state is in the variables afterwards."""
    if not lasting.state.is_file():
        return 0, {}
    with np.load(lasting.state, allow_pickle=False) as kept:
        record = json.loads(kept["record"].tobytes())
        trained.optimizer.build(trained.trainable_variables)
        variables = _variables(trained)
        if record["mark"] != lasting.mark or f"v{len(variables)}" in kept:
            return 0, {}
        for index, variable in enumerate(variables):
            variable.assign(_of_array(kept[f"v{index}"], variable))
    return record["epoch"], record["history"]


def _array(variable: Any) -> np.ndarray:
    found = np.asarray(keras.ops.convert_to_numpy(variable))
    # NumPy's files know no bfloat16.
    return found.astype(np.float32) if "bfloat" in str(variable.dtype) else found


def _of_array(array: np.ndarray, variable: Any) -> Any:
    return keras.ops.cast(array, variable.dtype) if "bfloat" in str(variable.dtype) else array

"""What is used of the private parts of how Keras compiles and trains a model."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics, MetricsList

from keras_distill._keras.tensorflow import outside_the_trace


def mask_of(tensor: Any) -> Any:
    """The mask that layers hung on their output (`_keras_mask`), or None.

    Without it padded positions would count.
    """
    return get_keras_mask(tensor)


@contextlib.contextmanager
def masked(tensor: Any, mask: Any) -> Iterator[None]:
    """`tensor` carries this mask, which Keras' losses and metrics read (`Loss.__call__`).

    It stays the same object: Keras finds the logits behind a softmax by it.
    """
    before = get_keras_mask(tensor)
    set_keras_mask(tensor, mask)
    try:
        yield
    finally:
        set_keras_mask(tensor, before)


def kept_logits(output: Any) -> Any:
    """The input of the softmax or sigmoid that gave `output` (`_keras_logits`), or None.

    Keras' activations hang it there, and its losses read it.
    """
    return getattr(output, "_keras_logits", None)


def keep_logits(output: Any, logits: Any) -> None:
    """Hangs `logits` on `output`, for Keras' losses to read in its place."""
    output._keras_logits = logits


def reshaped(tensor: Any, change: Callable[[Any], Any]) -> Any:
    """`change(tensor)`, the logits that Keras keeps on it (`_keras_logits`) changed likewise."""
    changed = change(tensor)
    kept = kept_logits(tensor)
    if kept is not None and changed is not tensor:
        keep_logits(changed, change(kept))
    return changed


def is_validation_of_fit(arguments: Mapping[str, Any]) -> bool:
    """Whether `evaluate` was called by `fit`, for its validation data (`Trainer.fit`).

    Without it each validation looks for changes of the teacher.
    """
    return bool(arguments.get("_use_cached_eval_dataset"))


def begin_at(model: keras.Model, epoch: int) -> None:
    """Has `fit` begin at this epoch: a callback sets `_initial_epoch`, as BackupAndRestore."""
    model._initial_epoch = epoch


def compiled(model: keras.Model) -> tuple[CompileLoss | None, CompileMetrics | None]:
    """What a model was compiled with (`_compile_loss`, `_compile_metrics`): `loss` is as given."""
    return model._compile_loss, model._compile_metrics


def forget_compiled(model: keras.Model) -> None:
    """Lets go of what a model was compiled with.

    Keras keeps the loss and the metrics where the next `compile` names none.
    """
    model._compile_loss = model._compile_metrics = None


def loss_tracker(model: keras.Model) -> Any:
    """The metric that averages a compiled model's loss (`_loss_tracker`), which `metrics` has."""
    return model._loss_tracker


def check_known(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """Raises ValueError where a built optimiser has no slots for one of these variables.

    `_check_variables_are_known`, which `apply` calls.
    """
    optimizer._check_variables_are_known(variables)


class LossRoute(NamedTuple):
    """One loss of a compiled model, and what it reads of a batch; `mean` is None for a single."""

    loss: keras.losses.Loss
    factor: Any
    mean: Any
    y: Any
    y_pred: Any
    sample_weight: Any


class _Router(CompileLoss):
    """Asks `CompileLoss.call` which labels go to which loss, and computes none."""

    def __init__(self, compiled: CompileLoss):
        self._compiled = compiled
        self.found: list[LossRoute] = []
        self.__dict__.update(compiled.__dict__)
        if compiled.built:
            self._listen()

    def build(self, y_true: Any, y_pred: Any) -> None:
        with outside_the_trace():
            self._compiled.build(y_true, y_pred)
        self._listen()

    def _listen(self) -> None:
        self.__dict__.update(self._compiled.__dict__)
        parts = self._compiled._flat_losses
        means = self._compiled._metrics or [None] * len(parts)
        self._flat_losses = [
            part._replace(loss=functools.partial(self._note, part, mean), loss_weights=None)
            for part, mean in zip(parts, means, strict=True)
        ]
        # `call` walks losses and means side by side.
        self._metrics = [None] * len(parts)

    def _note(self, part: Any, mean: Any, y: Any, y_pred: Any, sample_weight: Any) -> float:
        self.found.append(LossRoute(part.loss, part.loss_weights, mean, y, y_pred, sample_weight))
        return 0.0


def loss_routes(compiled: CompileLoss, y: Any, y_pred: Any, sample_weight: Any) -> list[LossRoute]:
    """Which labels, outputs and weights each compiled loss reads, by Keras' own rules.

    Of several losses on a single output Keras counts the first.

    Raises:
      ValueError, KeyError: Keras', where structures do not fit.
    """
    router = _Router(compiled)
    router.call(y, y_pred, sample_weight)
    nested = keras.tree.is_nested(y) or keras.tree.is_nested(y_pred)
    return router.found if nested else router.found[:1]


class MetricRoute(NamedTuple):
    """The metrics of one output, and what they read of a batch."""

    metrics: Sequence[keras.metrics.Metric]
    weighted: Sequence[keras.metrics.Metric]
    y: Any
    y_pred: Any
    sample_weight: Any


def metric_routes(
    compiled: CompileMetrics, y: Any, y_pred: Any, sample_weight: Any
) -> list[MetricRoute]:
    """Which labels, outputs and weights the metrics of each output read, as `update_state` has it.

    An output without labels has None; a metric on it fails as in Keras.
    """
    names = list(y_pred) if isinstance(y_pred, Mapping) else compiled.output_names
    if isinstance(y, Mapping) and names:
        y = {**dict.fromkeys(names), **y}
    if not compiled.built:
        if isinstance(y_pred, Mapping) and not set(y_pred) <= set(compiled.output_names or ()):
            # Keras 3.10 looks for a dict's metrics under the names of the model's own outputs.
            compiled.output_names = sorted(y_pred)
        with outside_the_trace():
            compiled.build(y, y_pred)
    labels, answers = compiled._flatten_y(y), compiled._flatten_y(y_pred)
    weights = [None] if sample_weight is None else compiled._flatten_y(sample_weight)
    if len(weights) < len(labels):
        weights = [weights[0]] * len(labels)
    # Of several outputs without any, Keras 3.10 has an empty list.
    lists = itertools.zip_longest(compiled._flat_metrics, compiled._flat_weighted_metrics)
    return [
        MetricRoute(plain.metrics if plain else (), weighted.metrics if weighted else (), *read)
        for (plain, weighted), *read in zip(lists, labels, answers, weights, strict=False)
    ]


def bound_arguments(reader: Any) -> Mapping[str, Any]:
    """What a loss or metric calls its function with besides labels and answers (`_fn_kwargs`)."""
    return getattr(reader, "_fn_kwargs", {})


def metric_function(metric: keras.metrics.Metric) -> Any:
    """The function whose values a metric averages, its arguments bound; None for other metrics.

    `MeanMetricWrapper` alone reads a mask.
    """
    if not isinstance(metric, keras.metrics.MeanMetricWrapper):
        return None
    return functools.partial(metric._fn, **metric._fn_kwargs)


class _Direction:
    def __init__(self, name: str, direction: str):
        self.name, self._direction = name, direction


class Directions(MetricsList):
    """Tells callbacks of mode "auto" which way names in the logs get better; it measures nothing.

    `MonitorCallback` looks for names and `_direction` in the lists of metrics alone.
    """

    def __init__(self, directions: dict[str, str]):
        named = [_Direction(name, direction) for name, direction in directions.items()]
        super().__init__(named, name="directions")

    @property
    def variables(self) -> list:
        """None."""
        return []

    def reset_state(self) -> None:
        """Nothing to reset."""

    def result(self) -> dict:
        """No entry in the logs."""
        return {}


def named_directions(compiled: CompileMetrics | None) -> dict[str, str]:
    """Which way the metrics of several outputs get better, by the names that the logs have."""
    if compiled is None or not compiled.built:
        return {}
    lists = [*compiled._flat_metrics, *compiled._flat_weighted_metrics]
    return {
        f"{one.output_name}_{metric.name}": metric._direction
        for one in lists
        if one and one.output_name
        for metric in one.metrics
        if hasattr(metric, "_direction")
    }

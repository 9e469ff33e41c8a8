"""Metrics that leave unlabelled rows out, and the running means of a step's parts."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_distill import step

__all__ = ["LabelledOnly", "RunningMeans", "labelled_only"]


def labelled_only(metrics: Any) -> Any:
    """The same structure of metrics, each leaving out the rows labelled -1."""
    if metrics is None:
        return None
    return keras.tree.map_structure(_wrapped, metrics)


@keras.saving.register_keras_serializable("keras_distill")
class LabelledOnly(keras.metrics.Metric):
    """A metric over the labelled rows.

    Args:
      metric: what `compile(metrics=)` takes: a name, a function or a Metric.
    """

    def __init__(self, metric: Any, name: str | None = None, dtype: Any = None):
        name = name or getattr(metric, "name", None) or getattr(metric, "__name__", metric)
        super().__init__(name=name, dtype=dtype)
        self._given = metric
        self._inner = metric if isinstance(metric, keras.metrics.Metric) else None

    @property
    def variables(self) -> list:
        """The wrapped metric's own."""
        return self._inner.variables if self._inner is not None else []

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """As the wrapped metric's, over the rows with a label."""
        labels = step.labelled(y_true, y_pred, sample_weight)
        if self._inner is None:
            self._inner = _resolve(self._given, labels.y, y_pred, self.name)
        if labels.weight is None or not _takes_weight(self._inner):
            self._inner.update_state(labels.y, y_pred)
        else:
            self._inner.update_state(labels.y, y_pred, sample_weight=labels.weight)

    def result(self) -> Any:
        """The wrapped metric's."""
        return self._inner.result() if self._inner is not None else keras.ops.zeros(())

    def reset_state(self) -> None:
        """Begin anew."""
        if self._inner is not None:
            self._inner.reset_state()

    def get_config(self) -> dict:
        """Arguments that rebuild it."""
        given = self._given
        if not isinstance(given, str):
            given = keras.saving.serialize_keras_object(given)
        return {"metric": given, "name": self.name}

    @classmethod
    def from_config(cls, config: dict) -> "LabelledOnly":
        """The metric that `get_config` described."""
        metric = config["metric"]
        if isinstance(metric, dict):
            metric = keras.saving.deserialize_keras_object(metric)
        return cls(**{**config, "metric": metric})


def _wrapped(metric: Any) -> Any:
    return metric if metric is None or isinstance(metric, LabelledOnly) else LabelledOnly(metric)


def _takes_weight(metric: keras.metrics.Metric) -> bool:
    return "sample_weight" in inspect.signature(metric.update_state).parameters


def _resolve(given: Any, y_true: Any, y_pred: Any, name: str) -> keras.metrics.Metric:
    if isinstance(given, str) and given.lower() in ("accuracy", "acc"):
        return _by_labels(y_true, y_pred, "Accuracy")(name=name)
    if isinstance(given, str) and given.lower() in ("crossentropy", "ce"):
        return _by_labels(y_true, y_pred, "Crossentropy")(name=name)
    found = keras.metrics.get(given)
    if isinstance(found, keras.metrics.Metric):
        return found
    return keras.metrics.MeanMetricWrapper(found, name=name)


def _by_labels(y_true: Any, y_pred: Any, what: str) -> type:
    if y_pred.shape[-1] == 1:
        return getattr(keras.metrics, f"Binary{what}")
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return getattr(keras.metrics, f"SparseCategorical{what}")
    return getattr(keras.metrics, f"Categorical{what}")


class RunningMeans:
    """Means over an epoch, by name. No Keras container, so that Keras tracks nothing in it."""

    def __init__(self) -> None:
        self.means: dict[str, keras.metrics.Mean] = {}

    def reset(self, names: Sequence[str]) -> None:
        """Begin anew, with these names."""
        self.means = {name: keras.metrics.Mean(name=name) for name in names}

    def update(self, values: Mapping[str, Any], rows: Any) -> None:
        """Take up a batch's means over `rows` examples; of the names that are kept."""
        for name in (name for name in values if name in self.means):
            self.means[name].update_state(values[name], sample_weight=rows)

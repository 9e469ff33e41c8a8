"""The running means of a step's parts, each over the rows that counted for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_distill.functional.tensors import Tensor
from keras_distill.training.label_losses import HeadLoss

__all__ = ["LabelledOnly", "RunningMeans", "SumOfMeans"]


class SumOfMeans(keras.metrics.Metric):
    """The sum of several means over an epoch, each weighed by rows of its own.

    Args:
      name: what the logs call it.
      terms: how many means.
    """

    def __init__(self, name: str, terms: int):
        super().__init__(name=name)
        self._totals = self.add_variable((terms,), "zeros", name="totals")
        self._counts = self.add_variable((terms,), "zeros", name="counts")

    def update_state(self, values: Sequence[Any], rows: Sequence[Any]) -> None:
        """Take up a batch's means, and over how many rows each is; what is left out counts none."""
        missing = [0.0] * (self._totals.shape[0] - len(values))
        means, counts = (
            keras.ops.stack([keras.ops.cast(v, self.dtype) for v in [*given, *missing]])
            for given in (values, rows)
        )
        self._totals.assign_add(keras.ops.where(counts == 0, 0.0, means * counts))
        self._counts.assign_add(counts)

    def result(self) -> Any:
        """The sum, a scalar; a mean over no row is 0."""
        return keras.ops.sum(keras.ops.divide_no_nan(self._totals.value, self._counts.value))

    def get_config(self) -> dict:
        return {"name": self.name, "terms": self._totals.shape[0]}


class RunningMeans:
    """What `fit` and `evaluate` log of the losses. No Keras container, so that Keras tracks none.

    Attributes:
      loss: of the total; its first term is what the total has besides the label losses.
      label_loss: of the label losses of all outputs.
      means: of objectives and schedules, by name.
    """

    def __init__(self) -> None:
        self.loss: Any = None
        self.label_loss: Any = None
        self.means: dict[str, keras.metrics.Mean] = {}

    def reset(self, names: Sequence[str], outputs: int, labelled: bool) -> None:
        """Begin anew: with these names, and a label loss or none."""
        self.loss = SumOfMeans("loss", outputs + 1)
        self.label_loss = SumOfMeans("label_loss", outputs) if labelled else None
        self.follow(names)

    def follow(self, names: Sequence[str]) -> None:
        """Keep these means besides, from nothing; the losses' go on."""
        self.means = {name: keras.metrics.Mean(name=name) for name in names}

    def metrics(self) -> list:
        """The metrics of `fit`, in the order of the logs."""
        kept = [self.loss, self.label_loss, *self.means.values()]
        return [metric for metric in kept if metric is not None]

    def evaluated(self, names: Sequence[str]) -> list:
        """The metrics of `evaluate`: the loss, if there is a label loss, and the means named."""
        means = [self.means[name] for name in names]
        return means if self.label_loss is None else [self.loss, *means]

    def directions(self) -> dict[str, str]:
        """All losses get better downwards, by name in the logs."""
        return dict.fromkeys([metric.name for metric in self.metrics()], "down")

    def update_losses(
        self, heads: Sequence[HeadLoss], shares: Sequence[Tensor], rest: Tensor, rows: Tensor
    ) -> None:
        """Take up a batch of training.

        Args:
          heads: each output's label loss.
          shares: of each in the total.
          rest: of the total.
          rows: the batch's examples, over which the total is a mean.
        """
        parts = [share * head.mean for share, head in zip(shares, heads, strict=True)]
        self.loss.update_state([rest, *parts], [rows] * (1 + len(parts)))
        self._update_label_loss(heads)

    def update_evaluated(self, heads: Sequence[HeadLoss], rest: Tensor, rows: Tensor) -> None:
        """Take up a batch of evaluation: each label loss is a mean over the rows with a label."""
        counts = [head.rows for head in heads]
        self.loss.update_state([rest, *(head.mean for head in heads)], [rows, *counts])
        self._update_label_loss(heads)

    def _update_label_loss(self, heads: Sequence[HeadLoss]) -> None:
        if self.label_loss is not None:
            self.label_loss.update_state(
                [head.mean for head in heads], [head.rows for head in heads]
            )

    def update(self, values: Mapping[str, Any], rows: Tensor) -> None:
        """Take up a batch's means over `rows` examples; of the names that are kept."""
        for name in (name for name in values if name in self.means):
            self.means[name].update_state(values[name], sample_weight=rows)


@keras.saving.register_keras_serializable("keras_distill")
class LabelledOnly:
    """What older files call a metric that leaves unlabelled rows out, as all metrics now do."""

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """The metric itself, a name, a function or a Metric."""
        metric = config["metric"]
        return keras.saving.deserialize_keras_object(metric) if isinstance(metric, dict) else metric

    def get_config(self) -> dict:
        """Nothing is written any more."""
        return {}

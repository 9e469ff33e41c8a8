"""What a stage `judge` found under conditions, taken from its record's JSON."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keras_distill.judging.record import CLEAN

__all__ = ["Robustness", "robustness"]

_SEVERITY = re.compile(r"(.+) (\d+)")


@dataclass(frozen=True)
class Robustness:
    """One judgement, its first metric.

    Attributes:
      stage: that judged.
      rows: examples that it asked.
      metric, share: as in `RunReport`.
      models: that were judged.
      conditions: by condition and model; the data as they are come first.
      corruption_errors: by model the mean corruption error, 1 for the baseline's.
    """

    stage: str
    rows: int
    metric: str
    share: bool
    models: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, float | None]]
    corruption_errors: Mapping[str, float | None]

    def kinds(self) -> dict[str, list[str]]:
        """The conditions by what they are, each in growing severity.

        >>> found = Robustness("judge", 9, "MAE", False, (), {"noise 2": {}, "noise 1": {}}, {})
        >>> found.kinds()
        {'noise': ['noise 1', 'noise 2']}
        """
        found: dict[str, list[tuple[int, str]]] = {}
        for condition in self.conditions:
            match = _SEVERITY.fullmatch(condition)
            kind, severity = (match[1], int(match[2])) if match else (condition, 0)
            found.setdefault(kind, []).append((severity, condition))
        return {kind: [one for _, one in sorted(some)] for kind, some in found.items()}


def robustness(records: Mapping[str, Any]) -> Iterator[Robustness]:
    """Of every record that is a judgement under conditions; others are passed over."""
    for stage, record in records.items():
        if not isinstance(record, Mapping) or len(record.get("conditions", ())) < 2:
            continue
        metric = record["metrics"][0]
        figures = [one for one in record["figures"] if one["metric"] == metric]
        found: dict[str, dict[str, float | None]] = {CLEAN: {}}
        for one in figures:
            found.setdefault(one["condition"], {})[one["model"]] = one["value"]
        yield Robustness(
            stage,
            int(record["rows"]),
            metric,
            bool(figures[0]["share"]),
            tuple(record["models"]),
            found,
            dict(record.get("corruption_errors", {})),
        )

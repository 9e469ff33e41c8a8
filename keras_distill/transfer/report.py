"""What a student took over from its teacher, layer by layer, as a frozen record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keras_distill._records import Record, Table

# What can have happened to a layer: its weights are the teacher's, whole; some of the teacher's
# channels; not the teacher's at all (a fresh start, or a mean of others); untouched.
COPIED, CUT, INITIALISED, LEFT = "copied", "cut", "initialised", "left"
ACTIONS = (COPIED, CUT, INITIALISED, LEFT)


@dataclass(frozen=True)
class TransferRow:
    """What happened to one layer.

    Attributes:
      layer: the student's, by its path.
      action: "copied" whole, "cut" to some of the teacher's channels, "initialised" without the
        teacher, or "left" as it was.
      source: the teacher's layer, or None.
      why: in words; shapes where they matter.
      parameters: how many numbers of the student's layer came from the teacher.
    """

    layer: str
    action: str
    source: str | None = None
    why: str = ""
    parameters: int = 0

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}; got {self.action!r}.")


@dataclass(frozen=True)
class TransferReport(Record):
    """A row a layer; printed as a table.

    Attributes:
      title: what was done, in a line.
      rows: in the student's order of execution.
      channels: where channels were chosen: by layer, the places of the teacher's that it kept.
    """

    title: str
    rows: tuple[TransferRow, ...]
    channels: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict, repr=False)

    def of(self, action: str) -> tuple[str, ...]:
        """The layers to which that happened."""
        return tuple(row.layer for row in self.rows if row.action == action)

    @property
    def copied(self) -> tuple[str, ...]:
        """Layers whose weights are the teacher's, whole."""
        return self.of(COPIED)

    @property
    def cut(self) -> tuple[str, ...]:
        """Layers that hold some of the teacher's channels."""
        return self.of(CUT)

    @property
    def initialised(self) -> tuple[str, ...]:
        """Layers that start without the teacher."""
        return self.of(INITIALISED)

    @property
    def left(self) -> tuple[str, ...]:
        """Layers that nothing was written to."""
        return self.of(LEFT)

    @property
    def parameters(self) -> int:
        """How many of the student's numbers came from the teacher."""
        return sum(row.parameters for row in self.rows)

    def parts(self) -> Iterator[str | Table]:
        """A row a layer, and the sums."""
        rows = tuple(
            (row.layer, row.action, row.source or "-", f"{row.parameters:,}", row.why)
            for row in self.rows
        )
        columns = ("layer", "action", "from", "parameters", "why")
        yield Table(columns, rows, numbers=("parameters",), title=self.title)
        counts = ", ".join(f"{len(self.of(action))} {action}" for action in ACTIONS)
        yield f"{counts}; {self.parameters:,} parameters taken over"

"""What a run hands to its report: the models and files that it made, and what it says of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Facts", "Made"]


@dataclass(frozen=True)
class Made:
    """One thing that a run made.

    Attributes:
      name: in every table; no other has it.
      line: the model it belongs to: "teacher", "twin", "student".
      stage: the kind of stage that made it: "train", "distil", "prune", "export".
      path: of a model that `keras_distill.load_model` reads, or of a `.tflite`.
      history: of its training, by epoch, as Keras' `History.history`.
      seconds: that its stage took.
      outcome: its stage's line.
      source: of a `.tflite`, the name of the model that it was exported from; by default the last
        one of its line that comes before it.
    """

    name: str
    line: str
    stage: str
    path: Path
    history: Mapping[str, Sequence[float]] | None = None
    seconds: float | None = None
    outcome: str = ""
    source: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a `.tflite`, not a Keras model."""
        return Path(self.path).suffix == ".tflite"


@dataclass(frozen=True)
class Facts:
    """What a run says of itself.

    Attributes:
      title, description: for people.
      command: that makes the run again.
      seed: of weights and batches.
      environment: versions, system, processor, by name.
      data: `name`, `rows` of each part, `labelled` training rows, `sha256` of each part; any of
        them may be missing.
      recipe: the resolved YAML.
      records: by stage the JSON of what `verify` and `judge` found; others are passed over.
    """

    title: str
    description: str
    command: str
    seed: int
    environment: Mapping[str, str]
    data: Mapping[str, Any]
    recipe: str
    records: Mapping[str, Any] = field(default_factory=dict)

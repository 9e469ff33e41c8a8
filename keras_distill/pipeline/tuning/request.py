"""What a search was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keras_distill.pipeline.tuning.front import Budget

__all__ = ["Request"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to search; the fields are the command's options."""

    recipe: str
    output: Path
    trials: int = 20
    storage: str | None = None
    study: str | None = None
    budget: Budget = field(default_factory=Budget)
    smoke: bool = False
    seed: int = 0
    data_folder: Path | None = None
    modules: Sequence[str] = ()
    command: str = ""

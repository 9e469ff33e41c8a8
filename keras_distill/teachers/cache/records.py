"""What a cache is and whether it is whole, as frozen records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_distill._records import Record, Table, pairs

__all__ = ["CacheInfo", "CacheReport"]


@dataclass(frozen=True)
class CacheInfo(Record):
    """What a cache holds.

    Attributes:
      directory: where it is.
      examples: in the data set; None while its length is not known.
      epochs: cached views of each example.
      augmented: the views differ from the inputs.
      outputs: the teacher's heads by name ("output" for its only one) and their shapes.
      top_k: logits kept of each position; None for all.
      dtype: of logits.
      layers: tapped layers and their shapes.
      layer_dtype: theirs.
      stored_inputs: the inputs lie in the cache too.
      shards, shards_whole: how many there are to be, and how many are finished.
      bytes: of all its files.
      bytes_an_example: of a view of an example, everything counted; None while none is finished.
      rest_share: with `top_k`: the mean probability of the classes left out, at temperature 1.
      rest_bound_nats: with `top_k`: by temperature, the mean of `rest_bound` over a sample.
      fingerprints: digests of what it was built from.
      versions: of the libraries that built it.
    """

    directory: Path
    examples: int | None
    epochs: int
    augmented: bool
    outputs: dict[str, tuple[int, ...]]
    top_k: int | None
    dtype: str
    layers: dict[str, tuple[int, ...]]
    layer_dtype: str
    stored_inputs: bool
    shards: int | None
    shards_whole: int
    bytes: int
    bytes_an_example: float | None
    rest_share: float | None
    rest_bound_nats: dict[float, float]
    fingerprints: dict[str, str]
    versions: dict[str, str]

    @property
    def complete(self) -> bool:
        """Every shard is finished."""
        return self.shards is not None and self.shards_whole == self.shards

    def parts(self) -> Iterator[str | Table]:
        """A line a fact."""
        kept = "all logits" if self.top_k is None else f"the {self.top_k} largest logits"
        rows: dict[str, Any] = {
            "directory": self.directory,
            "examples": "not known yet" if self.examples is None else f"{self.examples:,}",
            "views of each": f"{self.epochs}{'' if self.augmented else ' (not augmented)'}",
            "outputs": f"{_shapes(self.outputs)}: {kept}, {self.dtype}",
            "layers": f"{_shapes(self.layers)}, {self.layer_dtype}" if self.layers else "none",
            "inputs": "stored" if self.stored_inputs else "not stored",
            "shards": f"{self.shards_whole} of {'?' if self.shards is None else self.shards}",
            "bytes": f"{self.bytes:,}",
        }
        if self.bytes_an_example is not None:
            rows["bytes an example"] = f"{self.bytes_an_example:.2f}"
        if self.rest_share is not None:
            rows["share of the rest"] = f"{self.rest_share:.3g} (mean, at temperature 1)"
        for temperature, bound in self.rest_bound_nats.items():
            rows[f"rest's bound, T={temperature:g}"] = f"{bound:.3g} nats (mean)"
        rows |= {name: digest for name, digest in self.fingerprints.items()}
        rows["built with"] = ", ".join(f"{k} {v}" for k, v in self.versions.items())
        yield pairs(rows)


@dataclass(frozen=True)
class CacheReport(Record):
    """Whether every byte of a cache is what was written.

    Attributes:
      directory: where it is.
      shards: how many there are to be; None while the data's length is not known.
      whole: shards whose checksum fits, by file name.
      missing: shards that are not finished.
      damaged: by file name, what is wrong.
    """

    directory: Path
    shards: int | None
    whole: tuple[str, ...]
    missing: tuple[str, ...]
    damaged: dict[str, str]

    @property
    def passed(self) -> bool:
        """Complete, and not a byte wrong."""
        return self.shards is not None and len(self.whole) == self.shards

    def parts(self) -> Iterator[str | Table]:
        """A line a fact."""
        rows: dict[str, Any] = {
            "directory": self.directory,
            "shards": "?" if self.shards is None else self.shards,
            "whole": len(self.whole),
            "missing": _some(self.missing),
        }
        rows |= {f"damaged: {name}": problem for name, problem in self.damaged.items()}
        rows["passed"] = "yes" if self.passed else "NO"
        yield pairs(rows)


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _some(names: tuple[str, ...]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"

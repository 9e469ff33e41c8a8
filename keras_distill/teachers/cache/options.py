"""What a cache is asked to hold, checked."""

import dataclasses
from typing import Any

from keras_distill.teachers.cache.layout import DTYPES, LAYER_DTYPES
from keras_distill.teachers.cache.manifest import Manifest

__all__ = ["Options"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What `TeacherCache.build` was asked for, checked.

    Raises:
      ValueError: an option that is out of range.
    """

    top_k: int | None = None
    dtype: str = "float16"
    layers: tuple = ()
    layer_dtype: str = "float16"
    epochs: int = 1
    seed: int = 0
    batch_size: int = 128
    shard_examples: int | None = None
    shard: tuple[int, int] = (0, 1)
    store_inputs: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> "Options":
        """Those that a cache was built with."""
        layout = manifest.layout
        return cls(
            top_k=layout.top_k,
            dtype=layout.dtype,
            layers=tuple(layer.name for layer in layout.layers),
            layer_dtype=layout.layer_dtype,
            epochs=manifest.epochs,
            seed=manifest.seed,
            batch_size=manifest.batch_size,
            shard_examples=manifest.shard_examples,
            store_inputs=bool(layout.inputs),
        )

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("layer_dtype", self.layer_dtype, LAYER_DTYPES)
        for name in ("top_k", "epochs", "batch_size", "shard_examples"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of 1 or more; got {value!r}.")
        if self.shard_examples is not None and self.shard_examples % self.batch_size:
            raise ValueError(
                f"shard_examples must be a multiple of batch_size, so that no batch lies in two "
                f"shards; got {self.shard_examples} and {self.batch_size}."
            )
        part, parts = self.shard
        if not 0 <= part < parts:
            raise ValueError(
                f"shard=(i, n) is the part i of n, from 0: 0 <= i < n; got {self.shard}."
            )


def _one_of(name: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")

"""What one record of a cache holds, field by field."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["DTYPES", "LAYER_DTYPES", "Layout", "Output", "layer_named"]

DTYPES = ("float16", "bfloat16", "float32")
LAYER_DTYPES = (*DTYPES, "int8")
# As it lies in the file: .npy knows no bfloat16, so its bits are kept.
_STORED = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "int8": "|i1"}


@dataclasses.dataclass(frozen=True)
class Output:
    """One tensor of an example.

    Attributes:
      name: a head of the teacher (None for its only one), a layer's path, or an input's place.
      shape: without the batch.
      dtype: as the model or the data gives it.
      from_probabilities, from_sigmoid: of a head, as in `Signals`.

    Raises:
      ValueError: an axis of no known size, or a dtype that is no number's.
    """

    name: str | None
    shape: tuple[int, ...]
    dtype: str
    from_probabilities: bool = False
    from_sigmoid: bool = False

    @property
    def kind(self) -> str:
        """Of a head, as in `signals.Head`."""
        if self.from_sigmoid:
            return "sigmoid"
        return "probabilities" if self.from_probabilities else "logits"

    def __post_init__(self) -> None:
        if not all(type(size) is int and size >= 0 for size in self.shape):
            raise ValueError(f"{self.name or 'output'} has the shape {self.shape}.")
        if not _is_number(self.dtype):
            raise ValueError(f"{self.name or 'output'} is of {self.dtype!r}, which is no number.")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A record's fields.

    Attributes:
      heads: the teacher's outputs, `(..., classes)`.
      top_k: how many logits of each position are kept; None for all.
      dtype: of logits.
      layers: the tapped outputs.
      layer_dtype: theirs; "int8" keeps a float32 scale an example.
      augmented: a fingerprint of the view stands beside that of the input.
      inputs: x, y and sample weight of an example, where they are stored too; else empty.

    Raises:
      ValueError: an option out of its range, two fields of one name, or records larger than NumPy
        takes.
    """

    heads: tuple[Output, ...]
    top_k: int | None = None
    dtype: str = "float16"
    layers: tuple[Output, ...] = ()
    layer_dtype: str = "float16"
    augmented: bool = False
    inputs: tuple[Output, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or self.layer_dtype not in LAYER_DTYPES or not self.heads:
            raise ValueError(f"records can't be of {self.dtype!r} and {self.layer_dtype!r}.")
        for head in self.heads if self.top_k is not None else ():
            classes = head.shape[-1] if head.shape else 1
            if type(self.top_k) is not int or not 1 <= self.top_k <= classes:
                raise ValueError(
                    f"top_k must be at most the number of classes, {classes}; got {self.top_k}."
                )
        try:
            self.record  # noqa: B018
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"no record can be made of its fields: {error}") from error

    @property
    def record(self) -> np.dtype:
        """The structured dtype of a record: little-endian, no padding."""
        fields: list[tuple] = []
        for head in self.heads:
            fields += self._head_fields(head)
        for layer in self.layers:
            fields.append((field("layer", layer.name), _STORED[self.layer_dtype], layer.shape))
            if self.layer_dtype == "int8":
                fields.append((field("scale", layer.name), "<f4"))
        fields.append(("input", "<u4"))
        if self.augmented:
            fields.append(("view", "<u4"))
        fields += [(i.name, np.dtype(i.dtype).newbyteorder("<"), i.shape) for i in self.inputs]
        return np.dtype(fields)

    @property
    def answers(self) -> tuple[str, ...]:
        """The fields that training reads."""
        others = {"input", "view", *(i.name for i in self.inputs)}
        return tuple(name for name in self.record.names or () if name not in others)

    def _head_fields(self, head: Output) -> list[tuple]:
        if self.top_k is None:
            return [(field("logits", head.name), _STORED[self.dtype], head.shape)]
        kept = (*head.shape[:-1], self.top_k)
        return [
            (field("indices", head.name), index_dtype(head.shape[-1]), kept),
            (field("values", head.name), _STORED[self.dtype], kept),
            (field("rest", head.name), "<f4", head.shape[:-1]),
        ]

    def to_json(self) -> dict[str, Any]:
        """In JSON's types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Layout":
        """The layout that `to_json` described."""
        outputs = {name: _outputs(content[name]) for name in ("heads", "layers", "inputs")}
        return cls(**{**content, **outputs})


def field(kind: str, name: str | None) -> str:
    """A field's name.

    >>> field("logits", None), field("rest", "age")
    ('logits', 'rest[age]')
    """
    return kind if name is None else f"{kind}[{name}]"


def layer_named(wanted: str, layout: Layout) -> str:
    """The cached layer that a tap's name means: of that name, or at the end of that path.

    Raises:
      ValueError: none is cached, or it could be one of several.
    """
    names = [str(layer.name) for layer in layout.layers]
    ends = [n for n in names if n.endswith(f"/{wanted}") or wanted.endswith(f"/{n}")]
    if wanted in names:
        return wanted
    if len(ends) == 1:
        return ends[0]
    raise ValueError(
        f"The cache holds no output of the teacher's layer {wanted!r}; it holds "
        f"{', '.join(names) or 'none'}. Build it with layers=({wanted!r},)."
    )


def index_dtype(classes: int) -> str:
    """The smallest unsigned integer for this many classes, 16 bits or 32.

    >>> index_dtype(65536), index_dtype(65537)
    ('<u2', '<u4')
    """
    return "<u2" if classes <= 2**16 else "<u4"


def _is_number(dtype: str) -> bool:
    try:
        kind = tf.as_dtype(dtype)
    except TypeError:
        return False
    return kind.is_floating or kind.is_integer or kind.is_bool or kind.is_complex


def _outputs(content: Sequence[Mapping[str, Any]]) -> tuple[Output, ...]:
    return tuple(Output(**{**one, "shape": tuple(one["shape"])}) for one in content)

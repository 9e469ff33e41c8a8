"""What the teacher's tensors have become in a student with gaps, and whether they still meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_distill import _keras
from keras_distill.data import qualified_name
from keras_distill.graph.traits import does


@dataclass(frozen=True)
class Wire:
    """What a tensor of the teacher's is in the student.

    Attributes:
      tensor: the student's; None where it went with the layer that made it.
      reshaping: the left-out layers on the way to it that changed the shape.
      lost: the left-out layer that alone could have made it.
    """

    tensor: Any
    reshaping: frozenset[str] = frozenset()
    lost: str | None = None


def is_merge(node: Any) -> bool:
    """Whether it only brings tensors together, so that with one of them left it has no work."""
    return len(node.input_tensors) > 1 and does(node.operation, "merge", "concatenation")


def distinct(node: Any, read: Sequence[Wire]) -> list[int]:
    """The places of a merge's inputs, without those that a bypass made equal to an earlier one."""

    def repeats(place: int) -> bool:
        return any(
            read[earlier].tensor is read[place].tensor
            and node.input_tensors[earlier] is not node.input_tensors[place]
            for earlier in range(place)
        )

    return [place for place in range(len(read)) if not repeats(place)]


def check_found(read: Sequence[Wire], path: str) -> None:
    """Refuses a tensor that went with its layer."""
    for wire in read:
        if wire.lost is not None:
            raise ValueError(
                f"{path!r} reads more than the first output of {wire.lost!r}, which keep leaves "
                f"out: a layer of several outputs has no input to stand for each. Keep "
                f"{wire.lost!r} too, or leave out {path!r} as well."
            )


def check_shapes(node: Any, read: Sequence[Wire], path: str) -> None:
    """Refuses to broadcast where the teacher adds or multiplies one by one."""
    if not does(node.operation, "merge"):
        return
    before = [tensor.shape for tensor in node.input_tensors]
    after = [wire.tensor.shape for wire in read]
    same_ranks = [len(shape) for shape in before] == [len(shape) for shape in after]
    for place in range(1, len(read)):
        old = list(zip(before[0][::-1], before[place][::-1], strict=False))
        new = list(zip(after[0][::-1], after[place][::-1], strict=False))
        fits = all(a == b for (a, b), (c, d) in zip(new, old, strict=False) if c == d)
        if not same_ranks or not fits:
            raise misfit(node, read, path, f"can't join {sources(read)}")


def misfit(
    node: Any, read: Sequence[Wire], path: str, what: str, error: Exception | None = None
) -> ValueError:
    """The error for a layer that does not fit what it would read, and the mend."""
    common = frozenset.intersection(*(wire.reshaping for wire in read))
    reshaping = (union(read) - common if is_merge(node) else None) or union(read)
    before = " and ".join(str(tensor.shape) for tensor in node.input_tensors)
    reason = f" ({str(error).splitlines()[0]})" if str(error or "") else ""
    return ValueError(
        f"{path!r} ({qualified_name(node.operation)}) {what}, where the teacher's reads "
        f"{before}{reason}.{mend(reshaping, is_merge(node))}"
    )


def mend(reshaping: frozenset[str], merge: bool = False) -> str:
    """What to do about shapes that these left-out layers no longer change."""
    if not reshaping:
        return ""
    names = ", ".join(map(repr, sorted(reshaping)))
    what = "the shortcut's projection" if merge else "what is needed of them"
    return (
        f" Left out, and changing the shape on the way there: {names}. Keep {what} too, or leave "
        f"out what depends on it as well."
    )


def sources(read: Sequence[Wire]) -> str:
    """The shapes, and the student's layers that they come from."""
    return " and ".join(
        f"{wire.tensor.shape} of {_keras.history(wire.tensor).operation.name!r}" for wire in read
    )


def shapes(read: Sequence[Wire]) -> str:
    """In words."""
    return " and ".join(str(wire.tensor.shape) for wire in read)


def union(read: Sequence[Wire]) -> frozenset[str]:
    """The layers that changed the shape on the way to any of them."""
    return frozenset().union(*(wire.reshaping for wire in read))

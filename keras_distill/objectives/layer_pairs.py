"""Which layer of a teacher teaches which layer of a student."""

from collections.abc import Mapping
from typing import Any

__all__ = ["map_layers", "one_of", "pair_layers"]

MAPPINGS = ("uniform", "skip", "last")


def map_layers(students: int, teachers: int, mapping: str) -> list[int]:
    """Which of the teacher's layers, counted from 0, teaches each of the student's.

    >>> [map_layers(3, 12, mapping) for mapping in ("uniform", "skip", "last")]
    [[3, 7, 11], [0, 4, 8], [9, 10, 11]]
    """
    if mapping == "uniform":
        return [(index + 1) * teachers // students - 1 for index in range(students)]
    if mapping == "skip":
        return [index * (teachers // students) for index in range(students)]
    return list(range(teachers - students, teachers))


def pair_layers(
    owner: str, student: Any, teacher: Any, mapping: str | None
) -> tuple[tuple[Any, Any], ...]:
    """Pairs (student, teacher) of layers, as `HiddenStates` takes them.

    Raises:
      ValueError: they can't be paired.
    """
    if mapping is not None:
        one_of(owner, "mapping", mapping, MAPPINGS)
    if isinstance(student, Mapping):
        if teacher is not None or mapping is not None:
            raise ValueError(
                f"{owner}: a dict pairs each layer of the student with one of the teacher; leave "
                f"teacher= and mapping= out."
            )
        student, teacher = list(student), list(student.values())
    ours, theirs = (x if isinstance(x, (list, tuple)) else [x] for x in (student, teacher))
    if not ours or None in (*ours, *theirs):
        raise ValueError(
            f"{owner}: name layers of both models; got student={student!r}, teacher={teacher!r}."
        )
    if mapping is None and len(ours) != len(theirs):
        raise ValueError(
            f"{owner}: {len(ours)} layers of the student and {len(theirs)} of the teacher. Name as "
            f"many of both, or say mapping= {', '.join(map(repr, MAPPINGS))}."
        )
    if mapping is not None:
        if len(ours) > len(theirs):
            raise ValueError(
                f"{owner}: mapping={mapping!r} chooses among the teacher's layers, and there are "
                f"{len(theirs)} for {len(ours)} of the student. Name fewer of the student's."
            )
        theirs = [theirs[index] for index in map_layers(len(ours), len(theirs), mapping)]
    return tuple(zip(ours, theirs, strict=True))


def one_of(owner: str, argument: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value`, or ValueError where it is none of those allowed."""
    if value not in allowed:
        raise ValueError(
            f"{owner}: {argument} must be one of {', '.join(map(repr, allowed))}; got {value!r}."
        )
    return value

"""Teachers made of teachers: whatever is asked of one is asked of its members."""

from collections.abc import Iterable, Sequence
from typing import Any

from keras_distill.signals import Signals
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.cache import CachedBatch
from keras_distill.teachers.model import as_teacher

__all__ = ["Composite"]


class Composite(Teacher):
    """A teacher that asks others. A subclass defines `build` and `join`, and what it adds.

    Args:
      members: models, callables or `Teacher`s. One may be a `TeacherCache`, whose data set `fit`
        is then given; the others see the inputs in it.
    """

    def __init__(self, members: Iterable[Any]):
        self._members = tuple(as_teacher(member) for member in members)

    def __repr__(self) -> str:
        return f"teachers.{type(self).__name__}({', '.join(map(repr, self._members))})"

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers."""
        return self._members

    def join(self, answers: Sequence[Signals]) -> Signals:
        """One answer out of the members'."""
        raise NotImplementedError(f"{type(self).__name__} defines no join.")

    def __call__(self, x: Any) -> Signals:
        return self.join([member(_seen_by(member, x)) for member in self._members])

    def answer(self, x: Any, labels: Any) -> Signals:
        each = zip(self._members, self._labels_for_each(labels), strict=True)
        return self.join([member.answer(_seen_by(member, x), own) for member, own in each])

    def undisturbed(self, x: Any, labels: Any) -> Signals:
        each = zip(self._members, self._labels_for_each(labels), strict=True)
        return self.join([member.undisturbed(_seen_by(member, x), own) for member, own in each])

    def meet(self, student: Any) -> None:
        for member in self._members:
            member.meet(student)

    @property
    def state(self) -> tuple:
        return tuple(variable for member in self._members for variable in member.state)

    @property
    def cached(self) -> bool:
        return any(member.cached for member in self._members)

    def after_update(self, iterations: Any) -> None:
        for member in self._members:
            member.after_update(iterations)

    def fingerprint(self) -> str:
        members = ",".join(member.fingerprint() for member in self._members)
        return f"{type(self).__name__.lower()}({members};{self.settings()})"

    def settings(self) -> str:
        """What besides the members decides the answers."""
        return ""

    @property
    def revision(self) -> int:
        return sum(member.revision for member in self._members)

    def refresh(self) -> bool:
        # All of them, not until the first that changed.
        return any([member.refresh() for member in self._members])

    def count_params(self) -> int | None:
        counts = [member.count_params() for member in self._members]
        return None if None in counts else sum(count or 0 for count in counts)

    def check_data(self, x: Any) -> None:
        for member in self._members:
            member.check_data(x)

    def check_evaluated(self, x: Any) -> None:
        for member in self._members:
            member.check_evaluated(x)

    def callbacks(self) -> list:
        return [callback for member in self._members for callback in member.callbacks()]

    def jit_compile(self, asked: Any) -> Any:
        answers = [member.jit_compile(asked) for member in self._members]
        return next((answer for answer in answers if answer != asked), asked)

    def _labels_for_each(self, labels: Any) -> Sequence[Any]:
        return [labels] * len(self._members)


def _seen_by(member: Teacher, x: Any) -> Any:
    return x.inputs if isinstance(x, CachedBatch) and not member.cached else x

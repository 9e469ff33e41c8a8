"""One teacher an output."""

from collections.abc import Mapping
from typing import Any

from keras_distill.objectives.base import Signals
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.model import as_teacher

__all__ = ["MultiTask"]


class MultiTask(Teacher):
    """A student of several outputs learns each from a teacher of its own.

    Args:
      teachers: by the student's output name a model, callable or `Teacher` of one output.

    An objective taps a layer of one of them as `"output name/layer"`.

    Raises:
      ValueError: fewer than two; at build, a teacher of several outputs, a tap that names no
        output.

    >>> import keras
    >>> from keras_distill.teachers import Model
    >>> input_spec = keras.KerasTensor((None, 2))
    >>> teacher = MultiTask({
    ...     "kind": Model(lambda x: x, input_spec=input_spec),
    ...     "size": Model(lambda x: x[:, :1], input_spec=input_spec)})
    >>> teacher.build(None, ()).heads
    ('kind', 'size')
    """

    def __init__(self, teachers: Mapping[str, Any]):
        self._members = {name: as_teacher(teacher) for name, teacher in teachers.items()}
        if len(self._members) < 2:
            raise ValueError(
                f"MultiTask has a teacher for each of two outputs or more; got "
                f"{list(self._members)}. A single teacher needs no wrapper."
            )
        self._taps: dict[str, dict[str, Any]] = {}

    def meet(self, student: Any) -> None:
        for member in self._members.values():
            member.meet(student)

    def build(self, input_spec: Any, taps: tuple) -> Signals:
        self._taps = {name: {} for name in self._members}
        for key in taps:
            name, _, path = str(key).partition("/")
            if name not in self._members or not path:
                raise ValueError(
                    f"The teacher's layer {key!r} must be named 'output/layer', with one of the "
                    f"outputs {', '.join(self._members)}."
                )
            self._taps[name][path] = key
        return self._joined(
            {
                name: member.build(input_spec, tuple(self._taps[name]))
                for name, member in self._members.items()
            }
        )

    def __call__(self, x: Any) -> Signals:
        return self._joined({name: member(x) for name, member in self._members.items()})

    def answer(self, x: Any, labels: Any) -> Signals:
        return self._joined(
            {
                name: member.answer(x, labels[name] if isinstance(labels, Mapping) else labels)
                for name, member in self._members.items()
            }
        )

    @property
    def state(self) -> tuple:
        return tuple(variable for member in self._members.values() for variable in member.state)

    def after_update(self, iterations: Any) -> None:
        for member in self._members.values():
            member.after_update(iterations)

    def fingerprint(self) -> str:
        parts = (f"{name}:{member.fingerprint()}" for name, member in self._members.items())
        return f"multitask({','.join(parts)})"

    def refresh(self) -> bool:
        return any([member.refresh() for member in self._members.values()])

    def count_params(self) -> int | None:
        counts = [member.count_params() for member in self._members.values()]
        return None if None in counts else sum(count or 0 for count in counts)

    def jit_compile(self, asked: Any) -> Any:
        answers = [member.jit_compile(asked) for member in self._members.values()]
        return next((answer for answer in answers if answer != asked), asked)

    def _joined(self, found: Mapping[str, Signals]) -> Signals:
        for name, signals in found.items():
            if signals.heads:
                raise ValueError(
                    f"The teacher of {name!r} has the outputs {', '.join(signals.heads)}; a "
                    f"teacher of one output is wanted. Cut the model to it: "
                    f"keras.Model(inputs, output)."
                )
        taps = {
            self._taps[name][path]: tensor
            for name, signals in found.items()
            for path, tensor in signals.taps.items()
        }
        return Signals(
            {name: signals.logits for name, signals in found.items()},
            taps,
            {name: signals.from_probabilities for name, signals in found.items()},
            {name: signals.from_sigmoid for name, signals in found.items()},
        )

"""One teacher an output."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_distill.signals import Signals
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.composite import Composite

__all__ = ["MultiTask"]


class MultiTask(Composite):
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
    >>> teacher.prepare(None, ()).names
    ('kind', 'size')
    """

    def __init__(self, teachers: Mapping[str, Any]):
        super().__init__(teachers.values())
        self._names = tuple(teachers)
        if len(self._members) < 2:
            raise ValueError(
                f"MultiTask has a teacher for each of two outputs or more; got "
                f"{list(self._names)}. A single teacher needs no wrapper."
            )
        self._taps: dict[str, dict[str, Any]] = {}

    @property
    def teachers(self) -> dict[str, Teacher]:
        """Each output's."""
        return dict(zip(self._names, self._members, strict=True))

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        self._taps = {name: {} for name in self._names}
        for key in taps:
            name, _, path = str(key).partition("/")
            if name not in self._names or not path:
                raise ValueError(
                    f"The teacher's layer {key!r} must be named 'output/layer', with one of the "
                    f"outputs {', '.join(self._names)}."
                )
            self._taps[name][path] = key
        each = self.teachers.items()
        return self.join([m.prepare(input_spec, tuple(self._taps[name])) for name, m in each])

    def kinds(self) -> dict[str | None, str]:
        each = self.teachers.items()
        return {name: kind for name, member in each for kind in member.kinds().values()}

    def fingerprint(self) -> str:
        parts = (f"{name}:{member.fingerprint()}" for name, member in self.teachers.items())
        return f"multitask({','.join(parts)})"

    def _labels_for_each(self, labels: Any) -> Sequence[Any]:
        by_name = isinstance(labels, Mapping)
        return [labels[name] if by_name else labels for name in self._names]

    def join(self, answers: Sequence[Signals]) -> Signals:
        found = dict(zip(self._names, answers, strict=True))
        for name, signals in found.items():
            if signals.names:
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
        heads = {name: signals.heads[None] for name, signals in found.items()}
        return Signals(heads=heads, taps=taps)

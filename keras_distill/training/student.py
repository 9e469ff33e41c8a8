"""Reading a student's answer: which layers are tapped, what its outputs mean."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill.signals import Signals, outputs, taps
from keras_distill.teachers.specs import at_open_sizes, input_spec_of, settled

__all__ = ["StudentReader"]


class StudentReader:
    """Turns what a student returns, and what its tapped layers returned, into Signals.

    It is no Keras object: Keras tracks nothing in it, and no checkpoint takes it along.

    Args:
      model: the student.
      keys: its tapped layers, as the objectives name them.
      output: what they mean, as `teachers.Model(output=)`.

    Attributes:
      kinds: "logits", "probabilities" or "sigmoid" by head.
      spec: Signals of `keras.KerasTensor`s, batch None.

    Raises:
      ValueError: a tap that does not exist or can't be read, an input of unknown shape.
    """

    def __init__(self, model: keras.Model, keys: Sequence[Any], output: Any):
        self._keys = tuple(dict.fromkeys(keys))
        self._taps = [taps.find(model, key) for key in self._keys]
        self._names = outputs.output_names(model)
        self._output = output
        self.kinds: dict[str | None, str] = {}
        self.input_spec, self.spec = settled(
            _input_spec(model), functools.partial(self._signals_of, model)
        )

    def recording(self):
        """A context in which the student's forward is recorded."""
        return taps.recording(self._taps)

    def heads(self, answer: Any) -> dict[str | None, Any]:
        """What the student returned, by head."""
        return outputs.by_head(answer, self._names)

    def signals(self, answer: Any, recorder: taps.Recorder) -> Signals:
        """Signals of what the student returned under `recording`."""
        heads = outputs.by_head(answer, self._names)
        logits = {head: outputs.as_logits(t, self.kinds[head]) for head, t in heads.items()}
        tapped = dict(zip(self._keys, recorder.outputs(answer), strict=True))
        return Signals.of_heads(
            {head: tensor for head, (tensor, _) in logits.items()},
            tapped,
            {head: from_probabilities for head, (_, from_probabilities) in logits.items()},
            {head: self.kinds[head] == "sigmoid" for head in logits},
        )

    def _signals_of(self, model: keras.Model, input_spec: Any) -> Signals:
        trace = functools.partial(self._trace, model)
        first, *second = at_open_sizes(input_spec, trace, f"The student {model.name!r}")
        for other in second:
            logits = keras.tree.map_structure(outputs.opened, first.logits, other.logits)
            tapped = {key: outputs.opened(one, other.taps[key]) for key, one in first.taps.items()}
            first = dataclasses.replace(first, logits=logits, taps=tapped)
        return first

    def _trace(self, model: keras.Model, input_spec: Any) -> Signals:
        """Learn what the model gives for such inputs."""
        found = []

        def forward(*flat):
            with self.recording() as recorder:
                answer = model(keras.tree.pack_sequence_as(input_spec, list(flat)), training=False)
            for head, tensor in outputs.by_head(answer, self._names).items():
                self.kinds[head] = outputs.kind(tensor, head, self._output)
            found.append(outputs.signals_spec(self.signals(answer, recorder)))
            return answer

        specs = keras.tree.flatten(input_spec)
        tf.function(forward, autograph=False).get_concrete_function(*specs)
        return found[-1]


def _input_spec(model: keras.Model) -> Any:
    spec = input_spec_of(model)
    if spec is None:
        raise ValueError(
            f"The student {model.name!r} does not say what it takes. Build it with "
            f"student.build(input_shape), or give it an Input."
        )
    return spec

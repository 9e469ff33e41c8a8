"""How a model is read: which layers are tapped, what its outputs are called and mean."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from keras_distill.functional.tensors import Tensor
from keras_distill.signals import Signals, outputs
from keras_distill.signals.callables import call_function
from keras_distill.signals.specs import at_open_sizes, input_spec_of, is_legacy, settled
from keras_distill.signals.taps import Recorder, Tap, find, recording

__all__ = ["ModelReader", "student_reader"]


@dataclasses.dataclass(frozen=True)
class ModelReader:
    """Turns what a model returns, and what its tapped layers returned, into Signals.

    It is no Keras object: Keras tracks nothing in it, and no checkpoint takes it along.

    Attributes:
      model: a model of either Keras generation, or a callable on a batch.
      owner: whose model it is, for errors.
      taps: the tapped layers by the objectives' names of them.
      names: of the outputs, where the model gives a list of them.
      renamed: `{the model's: another}`, of outputs that are to have another name.
      output: what they mean, as it was said: one of `outputs.KINDS`, or a dict by head.

    What `traced` finds, besides:
      input_spec: `tf.TensorSpec`s in the model's structure.
      spec: Signals of `keras.KerasTensor`s, batch None.
      kinds: "logits", "probabilities" or "sigmoid" by head: what the model returns. Signals do not
        tell of a softmax whose input they hold.
      sized: whether the model runs on known sizes alone.
    """

    model: Any
    owner: str
    taps: Mapping[Any, Tap] = dataclasses.field(default_factory=dict)
    names: Sequence[str] | None = None
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    output: Any = "auto"
    input_spec: Any = None
    spec: Signals = dataclasses.field(default_factory=Signals)
    kinds: Mapping[str | None, str] = dataclasses.field(default_factory=dict)
    sized: bool = False

    def tapping(self, keys: Iterable[Any]) -> "ModelReader":
        """A reader of these layers.

        Raises:
          ValueError: one that the model does not have, or that can't be read.
        """
        return dataclasses.replace(self, taps={key: _find(self.model, key) for key in keys})

    def recording(self) -> AbstractContextManager[Recorder]:
        """A context in which the model's forward is recorded."""
        return recording(list(self.taps.values()))

    def heads(self, answer: Tensor) -> dict[str | None, Any]:
        """What the model returned, by head."""
        return outputs.renamed(outputs.by_head(answer, self.names), self.renamed, self.owner)

    def signals(self, answer: Tensor, recorder: Recorder) -> Signals:
        """Signals of what the model returned under `recording`."""
        heads = self.heads(answer).items()
        return Signals(
            heads={name: outputs.head_of(tensor, self.kinds[name]) for name, tensor in heads},
            taps=dict(zip(self.taps, recorder.outputs(answer), strict=True)),
        )

    def __call__(self, *tensors: Tensor) -> Signals:
        """Signals of one forward, in inference, on flat tensors of `input_spec`."""
        return self.signals(*self._answer(tensors))

    def traced(self, input_spec: Any) -> tuple["ModelReader", Any]:
        """The reader of what the model's graph tells, and the graph.

        Returns:
          A reader, and a ConcreteFunction from flat inputs to its `spec.tensors()`.

        Raises:
          Whatever the model raises for such inputs.
        """
        (found, graph), *second = at_open_sizes(input_spec, self._traced, self.owner)
        for other, _ in second:
            pairs = zip(found.spec.tensors(), other.spec.tensors(), strict=True)
            spec = found.spec.holding(outputs.opened(*pair) for pair in pairs)
            found = dataclasses.replace(found, spec=spec, sized=True)
        return dataclasses.replace(found, input_spec=input_spec), graph

    def _traced(self, input_spec: Any) -> tuple["ModelReader", Any]:
        asked, found = dataclasses.replace(self, input_spec=input_spec), []

        def forward(*tensors: Tensor) -> list[Tensor]:
            answer, recorder = asked._answer(tensors)
            heads = asked.heads(answer).items()
            kinds = {name: outputs.kind(tensor, name, self.output) for name, tensor in heads}
            reader = dataclasses.replace(asked, kinds=kinds)
            signals = reader.signals(answer, recorder)
            spec = signals.holding(map(outputs.spec, signals.tensors()))
            found.append(dataclasses.replace(reader, spec=spec))
            return signals.tensors()

        function = tf.function(forward, autograph=is_legacy(self.model))
        graph = function.get_concrete_function(*keras.tree.flatten(input_spec))
        return found[-1], graph

    def _answer(self, tensors: Sequence[Tensor]) -> tuple[Any, Recorder]:
        x = keras.tree.pack_sequence_as(self.input_spec, list(tensors))
        with self.recording() as recorder:
            if _is_model(self.model):
                return self.model(x, training=False), recorder
            return call_function(self.model, x), recorder


def student_reader(
    model: keras.Model, keys: Iterable[Any] = (), output: Any = "auto"
) -> ModelReader:
    """The reader of a student, by its own inputs.

    Args:
      model: the student.
      keys: its tapped layers, as the objectives name them.
      output: what its outputs mean, as `teachers.Model(output=)`.

    Raises:
      ValueError: a tap that does not exist or can't be read, an input of unknown shape.
    """
    owner, names = f"The student {model.name!r}", outputs.output_names(model)
    spec = input_spec_of(model)
    if spec is None:
        raise ValueError(
            f"{owner} does not say what it takes. Build it with student.build(input_shape), or "
            f"give it an Input."
        )
    reader = ModelReader(model, owner, names=names, output=output).tapping(keys)
    found: ModelReader
    _, (found, _) = settled(spec, reader.traced)
    return found


def _is_model(model: Any) -> bool:
    return isinstance(model, keras.layers.Layer) or is_legacy(model)


def _find(model: Any, key: Any) -> Tap:
    if not _is_model(model):
        raise ValueError(f"The teacher {model!r} is a bare callable: it has no layer {key!r}.")
    return find(model, key)

"""A model, or any callable that returns logits, as a teacher."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _keras
from keras_distill.progress import LOG
from keras_distill.signals import Signals, outputs
from keras_distill.signals.callables import told_kinds
from keras_distill.signals.reader import ModelReader
from keras_distill.signals.specs import fit_to_spec, given_spec, input_spec_of, settled, with_dtypes
from keras_distill.teachers import engines, identity
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.folding import Folded
from keras_distill.teachers.refused import not_a_teacher

__all__ = ["Model", "as_teacher"]


class Model(Teacher):
    """A trained model that teaches. Nothing of it is changed, and no gradient reaches it.

    Args:
      model: a model of either Keras generation, or a callable on a batch that returns logits
        (a SavedModel's signature, a LiteRT runner, a function).
      output: what the model returns: "logits", "probabilities" (a distribution over the last axis),
        "sigmoid" (a yes or no each), or "auto", by default, which finds it in the graph; a dict by
        output where there are several. A softmax whose input can be reached gives that; else its
        logarithm serves.
      precision: "float32"; "bfloat16" or "float16" rewrite the frozen graph; what that costs in
        speed and in the logits, benchmarks/README.md has measured.
      engine: "frozen" (its weights folded, BatchNorm into the convolutions, and held once; a model
        that writes variables as it answers runs as the plain call), "keras" (the plain call),
        "litert" (a LiteRT file in this process; not under XLA), or "auto" (times them on one batch
        of 32 and says its choice; without AVX-512 that is often LiteRT, whose convolutions are
        faster, at the price of a conversion and of more memory).
      input_spec: `keras.KerasTensor`s of the inputs, for a callable that can't tell.
      heads: where its outputs have other names than the student's: `{student's: model's}`. Those
        that are not named here keep their names.

    Raises:
      ValueError: an unknown option, an unbuilt model.
      TypeError: `model` is not callable.

    >>> teacher = Model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    >>> teacher.prepare(None, ()).logits.shape
    (None, 3)
    >>> teacher(keras.ops.ones((2, 4))).logits.shape
    TensorShape([2, 3])
    """

    def __init__(
        self,
        model: Any,
        *,
        output: Any = "auto",
        precision: str = "float32",
        engine: str = "frozen",
        input_spec: Any = None,
        heads: Mapping[str, str] | None = None,
    ):
        _check_model(model)
        engines.check_options(precision, engine)
        self._model = model
        self._output = (
            told_kinds(model) if output == "auto" else outputs.check_kind(output, "output")
        )
        self._precision = precision
        self._engine = engine
        self.engine_used = engine
        renamed = outputs.swapped(heads or {})
        names = (outputs.output_names if renamed else outputs.given_names)(model)
        self._reader = ModelReader(
            model,
            repr(self),
            names=names,
            renamed=renamed,
            output=self._output,
            input_spec=input_spec_of(model) if input_spec is None else given_spec(input_spec),
        )
        self._names = [t.name for t in getattr(model, "inputs", None) or []] or None
        self._run: Callable | None = None
        self._revision = 0
        self._captured: list = []
        self._seen = ""
        self._folded: Folded | None = None
        # What a look showed when it was made: the weights, the layers' attributes.
        self._looked: tuple[str, str] | None = None
        # What its graph consists of: types of operations.
        self._operations: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        name = getattr(self._model, "name", type(self._model).__name__)
        return f"teachers.Model({name!r}, precision={self._precision!r}, {self.engine_used!r})"

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        spec = self._reader.input_spec
        if spec is None and input_spec is not None:
            spec = given_spec(input_spec)
        self._make_ready(*self._traced(self._reader.tapping(taps), spec))
        return self._reader.spec

    def __call__(self, x: Any) -> Signals:
        if self._run is None:
            self.prepare(None, ())
        flat = fit_to_spec(x, self._reader.input_spec, self._names, repr(self))
        self._suit([tensor.dtype for tensor in flat])
        assert self._run is not None
        results = list(self._run(*flat))
        if not tf.executing_eagerly():
            for tensor, spec in zip(results, self._reader.spec.tensors(), strict=True):
                tensor.set_shape(spec.shape)
        return self._reader.spec.holding(results)

    def kinds(self) -> dict[str | None, str]:
        return dict(self._reader.kinds)

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for variable in self._weights() or self._captured:
            digest.update(identity.content_of(keras.ops.convert_to_numpy(variable)))
        return digest.hexdigest()

    def identity(self) -> str:
        """A digest of all that the answers depend on: operations, constants and weights.

        It is the same for the same model in another process. Of what runs as Python inside of a
        model its answers to some made-up rows tell.
        """
        digest = self._digest(*self._traced(self._reader, self._reader.input_spec))
        return identity.digest([self._precision, digest])

    def refresh(self) -> bool:
        """Fold the model's weights anew, or all of it, where it computes something else by now.

        It is traced for this if a layer's attributes have changed, or if it is no Keras model. What
        changed inside an object that an attribute holds is not seen. The plain call
        (`engine="keras"`) reads the weights itself, and is not traced: a Python constant of its
        model counts as it was when training was compiled.
        """
        if self.engine_used == "keras":
            return False
        look = self._look()
        if look is not None and self._looked is not None:
            if look == self._looked:
                return False
            if self._folded is not None and look[1] == self._looked[1]:
                self._folded.refresh()
                # The digest of what was traced is of the weights before.
                self._looked, self._seen = look, ""
                return False
        found = self._traced(self._reader, self._reader.input_spec)
        if self._digest(*found) == self._seen:
            self._looked = look
            return False
        self._make_ready(*found)
        self._revision += 1
        return True

    @property
    def revision(self) -> int:
        return self._revision

    def count_params(self) -> int | None:
        return sum(int(np.prod(v.shape)) for v in self._weights()) or None

    def _weights(self) -> Sequence[Any]:
        """The model's; a Dropout's random state is none, and a `.keras` file leaves it out."""
        kept = "weights" if _keras.holds_layers(self._model) else "variables"
        return getattr(self._model, kept, ())

    def jit_compile(self, asked: Any) -> Any:
        obstacles = engines.beyond_xla(self._operations)
        if not obstacles and self.engine_used != "litert":
            return asked
        if asked is True:
            what = f"its operations {', '.join(obstacles)}" if obstacles else "a LiteRT file"
            mend = "" if obstacles else "teachers.Model(..., engine='frozen'), or "
            raise ValueError(
                f"jit_compile=True compiles the whole step with XLA, the teacher {self!r} "
                f"included, and XLA can't take {what}. Use {mend}compile(jit_compile=False)."
            )
        return False

    def _suit(self, dtypes: list) -> None:
        """Run on these dtypes, where the model did not say what it takes."""
        spec = self._reader.input_spec
        if dtypes != [one.dtype for one in keras.tree.flatten(spec)]:
            with tf.init_scope():
                self._make_ready(*self._reader.traced(with_dtypes(spec, dtypes)))

    def _traced(self, reader: ModelReader, spec: Any) -> tuple[ModelReader, Any]:
        if spec is None:
            raise ValueError(
                f"The teacher {self._model!r} does not say what it takes. Give its input's shape: "
                f"keras_distill.teachers.Model(teacher, input_spec=keras.KerasTensor((None, ...)))."
            )
        return settled(spec, reader.traced)[1]

    def _digest(self, reader: ModelReader, graph: Any) -> str:
        found = [identity.of_function(graph, graph.outputs[: len(reader.spec.heads)])]
        if identity.is_opaque(graph):
            answers = [head.logits for head in self._probed(reader).heads.values()]
            found.append(identity.of_answers(answers))
        return identity.digest([*found, *reader.kinds.values()])

    def _probed(self, reader: ModelReader) -> Signals:
        """What the model answers to some made-up rows, for one that can't be read."""
        rows = identity.made_up_rows(keras.tree.flatten(reader.input_spec))
        x = keras.tree.pack_sequence_as(reader.input_spec, rows)
        return reader(*fit_to_spec(x, reader.input_spec, None, repr(self)))

    def _warn_of_distributions(self) -> None:
        for name, head in self._probed(self._reader).heads.items():
            if self._reader.kinds[name] == "logits" and self._output == "auto":
                outputs.warn_of_distribution(head.logits, name, repr(self))

    def _make_ready(self, reader: ModelReader, graph: Any) -> None:
        self._reader, self._folded = reader, None
        specs = keras.tree.flatten(reader.input_spec)
        # A function does not tell its variables; its trace does.
        self._captured = list(graph.variables)
        self._operations = identity.operations(graph.graph)
        makers = {
            "frozen": lambda: self._frozen(graph),
            "keras": lambda: self._forward,
            "litert": lambda: engines.litert_engine(
                self._forward, specs, self._captured, reader.spec.tensors()
            ),
        }
        if reader.sized:
            self._check_sized()
            self.engine_used, self._run = "keras", self._forward
        elif not all(isinstance(spec, tf.TensorSpec) for spec in specs):
            self._run = self._on_sparse_or_ragged(makers)
        elif self._engine == "auto":
            self._run = self._fastest(makers, specs)
        else:
            self.engine_used = self._engine
            self._run = makers[self._engine]()
        if identity.is_opaque(graph):
            self._warn_of_distributions()
        self._seen = "" if self.engine_used == "keras" else self._digest(reader, graph)
        self._looked = self._look()

    def _forward(self, *tensors: Any) -> list:
        return self._reader(*tensors).tensors()

    def _look(self) -> tuple[str, str] | None:
        """What a quick look at a Keras model shows: its weights and its layers' attributes."""
        attributes = identity.of_attributes(self._model)
        return None if attributes is None else (self.fingerprint(), attributes)

    def _check_sized(self) -> None:
        if self._engine == "litert" or self._precision != "float32":
            asked = {"engine": self._engine, "precision": self._precision}
            raise ValueError(
                f"{self!r} can't be traced on {self._shapes()}, only on known sizes, and so runs "
                f"as the plain call; {asked} needs one graph for every batch. Name the sizes if "
                f"they are fixed: input_spec=keras.KerasTensor(shape); or leave both out."
            )

    def _shapes(self) -> Any:
        return keras.tree.map_structure(lambda spec: tuple(spec.shape), self._reader.input_spec)

    def _on_sparse_or_ragged(self, makers: Mapping[str, Callable]) -> Callable:
        if self._engine == "litert":
            raise ValueError(
                f"{self!r} takes sparse or ragged tensors, and a LiteRT file takes dense ones. "
                f"Leave engine='frozen', or use engine='keras'."
            )
        self.engine_used = "keras" if self._engine == "keras" else "frozen"
        run = makers[self.engine_used]()
        return run if self.engine_used == "keras" else engines.on_components(run)

    def _frozen(self, concrete: Any) -> Callable:
        try:
            self._folded = engines.freeze(concrete, self._precision)
            return self._folded
        except engines.CannotFreezeError as error:
            if self._precision != "float32":
                raise ValueError(
                    f"precision={self._precision!r} needs a teacher that can be frozen, and this "
                    f"one can't: {error}. Use precision='float32'."
                ) from error
            self.engine_used = "keras"
            return self._forward

    def _fastest(self, makers: dict, specs: list) -> Callable:
        batch = [tf.zeros([32, *[d or 32 for d in s.shape[1:]]], s.dtype) for s in specs]
        timed = {}
        for name, make in makers.items():
            self.engine_used = name
            try:
                run = make()
            except Exception:  # an engine that can't take this model is no candidate
                continue
            if self.engine_used == name:
                timed[name] = (engines.seconds(tf.function(run, autograph=False), batch), run)
        self.engine_used = min(timed, key=lambda name: timed[name][0])
        if self.engine_used != "frozen":
            self._folded = None
        figures = ", ".join(f"{name} {s * 1e3:.1f} ms" for name, (s, _) in timed.items())
        LOG.info("Teacher engine: %s (a batch of 32: %s)", self.engine_used, figures)
        return timed[self.engine_used][1]


def as_teacher(teacher: Any) -> Teacher:
    """`teacher` itself, or a bare model or callable as a `Model` with the defaults."""
    return teacher if isinstance(teacher, Teacher) else Model(teacher)


def _check_model(model: Any) -> None:
    if error := not_a_teacher(model):
        raise error
    if getattr(model, "built", True) is False:
        raise ValueError(
            f"The teacher {getattr(model, 'name', model)!r} has no weights yet. Build it, or load "
            f"the trained ones, before it teaches."
        )

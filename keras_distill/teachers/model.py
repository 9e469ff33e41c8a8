"""A model, or any callable that returns logits, as a teacher."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill.signals import Signals, outputs, taps
from keras_distill.teachers import engines, identity
from keras_distill.teachers.base import Teacher
from keras_distill.teachers.callables import call_function, told_kinds
from keras_distill.teachers.refused import not_a_teacher
from keras_distill.teachers.specs import (
    at_open_sizes,
    fit_to_spec,
    given_spec,
    input_spec_of,
    is_legacy,
    settled,
    with_dtypes,
)

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
      engine: "frozen" (constants folded, kernels fused; a model that can't be frozen runs as the
        plain call), "keras" (the plain call), "litert" (a LiteRT file in this process; not under
        XLA), or "auto" (times them on one batch of 32 and says its choice).
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
        self._renamed = outputs.swapped(heads or {})
        self._spec = input_spec_of(model) if input_spec is None else given_spec(input_spec)
        self._names = [t.name for t in getattr(model, "inputs", None) or []] or None
        self._taps: list[taps.Tap] = []
        self._tap_keys: tuple = ()
        self._heads: list = []
        self._kinds: dict[Any, str] = {}
        self._from_probabilities: list[bool] = []
        self._signals: Signals | None = None
        self._run: Callable | None = None
        self._output_specs: list[tf.TensorSpec] = []
        self._captured: list = []
        self._seen = ""
        self._looked: str | None = None
        # It can't be traced where a size is not known.
        self._sized = False
        # What its graph consists of: types of operations.
        self._operations: frozenset[str] = frozenset()
        self.engine_used = engine

    def __repr__(self) -> str:
        name = getattr(self._model, "name", type(self._model).__name__)
        return f"teachers.Model({name!r}, precision={self._precision!r}, {self.engine_used!r})"

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        if self._spec is None and input_spec is not None:
            self._spec = given_spec(input_spec)
        self._spec = self._known_spec()
        self._tap_keys = tuple(dict.fromkeys(taps))
        self._taps = [_find(self._model, key) for key in self._tap_keys]
        self._spec, concrete = settled(self._spec, self._trace)
        self._prepare(concrete)
        assert self._signals is not None
        return self._signals

    def __call__(self, x: Any) -> Signals:
        if self._run is None:
            self.prepare(None, ())
        flat = fit_to_spec(x, self._spec, self._names, repr(self))
        self._suit([tensor.dtype for tensor in flat])
        assert self._run is not None
        results = list(self._run(*flat))
        if not tf.executing_eagerly():
            for tensor, spec in zip(results, self._output_specs, strict=True):
                tensor.set_shape(spec.shape)
        return self._pack(results, self._from_probabilities)

    def kinds(self) -> dict[str | None, str]:
        return dict(self._kinds)

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for variable in getattr(self._model, "variables", ()) or self._captured:
            digest.update(keras.ops.convert_to_numpy(variable).tobytes())
        return digest.hexdigest()

    def identity(self) -> str:
        """A digest of all that the answers depend on: operations, constants and weights.

        It is the same for the same model in another process. Of what runs as Python inside of a
        model its answers to some made-up rows tell.
        """
        _, concrete = settled(self._known_spec(), self._trace)
        return identity.digest([self._precision, self._digest(concrete)])

    def refresh(self) -> bool:
        """Freeze the model anew, where it has other weights or computes something else by now.

        It is traced for this if a layer's attributes have changed, or if it is no Keras model. What
        changed inside an object that an attribute holds is not seen. The plain call
        (`engine="keras"`) reads the weights itself, and is not traced: a Python constant of its
        model counts as it was when training was compiled.
        """
        if self.engine_used == "keras":
            return False
        look = self._look()
        if look is not None and look == self._looked:
            return False
        self._spec, concrete = settled(self._spec, self._trace)
        if self._digest(concrete) == self._seen:
            self._looked = look
            return False
        self._prepare(concrete)
        return True

    def count_params(self) -> int | None:
        variables = getattr(self._model, "variables", ())
        return sum(int(np.prod(v.shape)) for v in variables) or None

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
        if dtypes != [spec.dtype for spec in keras.tree.flatten(self._spec)]:
            with tf.init_scope():
                self._prepare(self._trace(with_dtypes(self._spec, dtypes)))

    def _trace(self, spec: Any) -> Any:
        first, *second = at_open_sizes(spec, self._trace_at, repr(self))
        self._spec = spec
        self._sized = bool(second)
        self._output_specs = self._flat_specs(first)
        for other in second:
            pairs = zip(self._output_specs, self._flat_specs(other), strict=True)
            opened = [outputs.opened(*pair) for pair in pairs]
            self._output_specs = [tf.TensorSpec(one.shape, one.dtype) for one in opened]
        return first

    def _trace_at(self, spec: Any) -> Any:
        self._spec = spec
        self._kinds = {}
        specs = keras.tree.flatten(spec)
        return engines.trace(self._forward, specs, autograph=is_legacy(self._model))

    def _output_names(self) -> list[str] | None:
        names = outputs.output_names if self._renamed else outputs.given_names
        return names(self._model)

    def _digest(self, concrete: Any) -> str:
        found = [identity.of_function(concrete, concrete.outputs[: len(self._heads)])]
        if identity.is_opaque(concrete):
            found.append(identity.of_answers(self._probed()))
        return identity.digest([*found, *self._kinds.values()])

    def _probed(self) -> list:
        """What the model answers to some made-up rows, for one that can't be read."""
        rows = identity.made_up_rows(keras.tree.flatten(self._spec))
        x = keras.tree.pack_sequence_as(self._spec, rows)
        return self._forward(*fit_to_spec(x, self._spec, None, repr(self)))[: len(self._heads)]

    def _warn_of_distributions(self) -> None:
        for head, answer in zip(self._heads, self._probed(), strict=True):
            if self._kinds[head] == "logits" and self._output == "auto":
                outputs.warn_of_distribution(answer, head, repr(self))

    def _known_spec(self) -> Any:
        if self._spec is None:
            raise ValueError(
                f"The teacher {self._model!r} does not say what it takes. Give its input's shape: "
                f"keras_distill.teachers.Model(teacher, input_spec=keras.KerasTensor((None, ...)))."
            )
        return self._spec

    def _prepare(self, concrete: Any) -> None:
        specs = keras.tree.flatten(self._spec)
        # A function does not tell its variables; its trace does.
        self._captured = list(concrete.variables)
        self._operations = engines.operations(concrete.graph)
        self._signals = self._pack(
            [outputs.spec(t) for t in self._output_specs], self._from_probabilities
        )
        makers = {
            "frozen": lambda: self._frozen(concrete),
            "keras": lambda: self._forward,
            "litert": lambda: engines.litert_engine(
                self._forward, specs, self._captured, self._output_specs
            ),
        }
        if self._sized:
            self._check_sized()
            self.engine_used, self._run = "keras", self._forward
        elif not all(isinstance(spec, tf.TensorSpec) for spec in specs):
            self._run = self._on_sparse_or_ragged(makers)
        elif self._engine == "auto":
            self._run = self._fastest(makers, specs)
        else:
            self.engine_used = self._engine
            self._run = makers[self._engine]()
        if identity.is_opaque(concrete):
            self._warn_of_distributions()
        self._seen = "" if self.engine_used == "keras" else self._digest(concrete)
        self._looked = self._look()

    def _look(self) -> str | None:
        """What a quick look at a Keras model shows: its weights and its layers' attributes."""
        attributes = identity.of_attributes(self._model)
        return None if attributes is None else identity.digest([self.fingerprint(), attributes])

    def _check_sized(self) -> None:
        if self._engine == "litert" or self._precision != "float32":
            asked = {"engine": self._engine, "precision": self._precision}
            raise ValueError(
                f"{self!r} can't be traced on {self._shapes()}, only on known sizes, and so runs "
                f"as the plain call; {asked} needs one graph for every batch. Name the sizes if "
                f"they are fixed: input_spec=keras.KerasTensor(shape); or leave both out."
            )

    def _shapes(self) -> Any:
        return keras.tree.map_structure(lambda spec: tuple(spec.shape), self._spec)

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
            return engines.freeze(concrete, self._precision)
        except engines.CannotFreezeError as error:
            if self._precision != "float32":
                raise ValueError(
                    f"precision={self._precision!r} needs a teacher that can be frozen, and this "
                    f"one can't: {error}. Use precision='float32'."
                ) from error
            self.engine_used = "keras"
            return self._forward

    def _forward(self, *flat: Any) -> list:
        x = keras.tree.pack_sequence_as(self._spec, list(flat))
        with taps.recording(self._taps) as recorder:
            answer = _call(self._model, x)
        heads = outputs.renamed(
            outputs.by_head(answer, self._output_names()), self._renamed, repr(self)
        )
        for name, tensor in heads.items():
            # Only the trace can tell; what runs eagerly later goes by what it found.
            self._kinds.setdefault(name, outputs.kind(tensor, name, self._output))
        logits = {name: outputs.as_logits(t, self._kinds[name]) for name, t in heads.items()}
        self._heads = list(heads)
        self._from_probabilities = [from_probs for _, from_probs in logits.values()]
        return [t for t, _ in logits.values()] + recorder.outputs(answer)

    def _pack(self, flat: list, from_probabilities: list[bool]) -> Signals:
        count = len(self._heads)
        tapped = dict(zip(self._tap_keys, flat[count:], strict=True))
        return Signals.of_heads(
            dict(zip(self._heads, flat[:count], strict=True)),
            tapped,
            dict(zip(self._heads, from_probabilities, strict=True)),
            {name: self._kinds[name] == "sigmoid" for name in self._heads},
        )

    def _flat_specs(self, concrete: Any) -> list:
        return [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in concrete.outputs]

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
        figures = ", ".join(f"{name} {s * 1e3:.1f} ms" for name, (s, _) in timed.items())
        print(f"Teacher engine: {self.engine_used} (a batch of 32: {figures})")
        return timed[self.engine_used][1]


def as_teacher(teacher: Any) -> Teacher:
    """`teacher` itself, or a bare model or callable as a `Model` with the defaults."""
    return teacher if isinstance(teacher, Teacher) else Model(teacher)


def _call(model: Any, x: Any):
    if isinstance(model, keras.layers.Layer) or is_legacy(model):
        return model(x, training=False)
    return call_function(model, x)


def _find(model: Any, key: Any) -> taps.Tap:
    if not (isinstance(model, keras.layers.Layer) or is_legacy(model)):
        raise ValueError(f"The teacher {model!r} is a bare callable: it has no layer {key!r}.")
    return taps.find(model, key)


def _check_model(model: Any) -> None:
    if error := not_a_teacher(model):
        raise error
    if getattr(model, "built", True) is False:
        raise ValueError(
            f"The teacher {getattr(model, 'name', model)!r} has no weights yet. Build it, or load "
            f"the trained ones, before it teaches."
        )

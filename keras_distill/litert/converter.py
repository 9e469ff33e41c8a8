"""From a Python function to a .tflite: a SavedModel, converted in a child process.

The converter crashes with a segmentation fault on some models (recurrent layers at int8), so it
never runs inside the caller's session. Its process stays for the next conversion: it is started
again after a crash, and ends with this process, or after five minutes without work.
"""

from __future__ import annotations

import contextlib
import keyword
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _files
from keras_distill.litert import launch
from keras_distill.litert.by_value import by_value
from keras_distill.litert.process import EndedError, Processes, signal_name
from keras_distill.litert.quiet import quiet_tensorflow
from keras_distill.litert.saved_graph import nodes_of, readers_of_tensor
from keras_distill.litert.serve import in_bytes

PRECISIONS = ("float32", "float16", "dynamic_int8", "int8", "int16x8")
CALIBRATED = ("int8", "int16x8")
_NO_RANGE = r"Empty min/max for tensor (\S+)"
_SCRATCH = "keras_distill_convert"


class ConversionError(RuntimeError):
    """No .tflite came out; the message has the operation where it is known, and the mend.

    `__cause__` carries the converter's own words.

    Attributes:
      nodes: names of the graph's nodes that it is about, where they are known.
    """

    def __init__(self, words: str, nodes: Sequence[str] = ()):
        super().__init__(words)
        self.nodes = tuple(nodes)


@dataclass(frozen=True)
class SavedModel:
    """A SavedModel folder with one signature, `serving_default`.

    `inputs` maps the names asked for to those TensorFlow accepts; `outputs` are the traced
    `tf.TensorSpec`s by name. Both keep the caller's order, which TensorFlow sorts away.
    """

    directory: str
    inputs: dict[str, str]
    outputs: dict[str, tf.TensorSpec]


def write_saved_model(
    function: Callable[[dict[str, Any]], dict[str, Any]],
    tensor_specs: Mapping[str, tf.TensorSpec],
    directory: str | os.PathLike[str],
    variables: Sequence[Any] = (),
) -> SavedModel:
    """Traces `function` and saves it under the signature `serving_default`, without a word.

    Args:
      function: takes the inputs as a dict of tensors and returns the outputs as one.
      tensor_specs: a `tf.TensorSpec` an input, in the caller's order.
      directory: where the SavedModel goes.
      variables: every lookup table that `function` reads, and every `keras.Variable` and
        `tf.Variable` that it writes or reads in a loop; of the others it takes the numbers.

    Raises:
      ValueError: two input names that TensorFlow cannot tell apart.
    """
    inputs = {name: _tensorflow_name(name) for name in tensor_specs}
    if len(set(inputs.values())) < len(inputs):
        raise ValueError(f"Input names must differ by more than punctuation; got {list(inputs)}.")
    specs = {
        inputs[name]: tf.TensorSpec(spec.shape, spec.dtype, name=inputs[name])
        for name, spec in tensor_specs.items()
    }
    order: list[str] = []

    def serve(**tensors):
        outputs = function({name: tensors[inner] for name, inner in inputs.items()})
        order[:] = list(outputs)
        return outputs

    module = tf.Module()
    WORKER.current()  # It imports TensorFlow while we trace.
    with quiet_tensorflow():
        traced = by_value(tf.function(serve).get_concrete_function(**specs), specs)
        module.serve, module.tracked = traced, _read_by(traced, variables)
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        signatures = {"serving_default": traced}
        tf.saved_model.save(module, os.fspath(directory), signatures, options)
    outputs = {
        name: tf.TensorSpec(
            traced.structured_outputs[name].shape, traced.structured_outputs[name].dtype
        )
        for name in order
    }
    return SavedModel(os.fspath(directory), inputs, outputs)


def _read_by(traced: Any, variables: Sequence[Any]) -> list[Any]:
    """What a function reads of some variables, and all that are lookup tables."""
    handles = set(map(id, traced.captured_inputs))
    found = [one.value if isinstance(one, keras.Variable) else one for one in variables]
    # Of a strategy's variable the function reads a part.
    parts = [[getattr(part, "handle", None) for part in getattr(v, "values", [v])] for v in found]
    return [
        v for v, own in zip(found, parts, strict=True) if None in own or handles & set(map(id, own))
    ]


def _tensorflow_name(name: str) -> str:
    # As long as the original in bytes: the worker writes the original back over it.
    plain = re.sub(rb"[^A-Za-z0-9_]", b"_", name.encode()).decode()
    if not plain[:1].isalpha() or keyword.iskeyword(plain):
        return "x" + plain[1:]
    return plain


def convert(
    saved_model: SavedModel,
    output: str | os.PathLike[str],
    *,
    precision: str = "float32",
    calibration: Mapping[str, np.ndarray] | None = None,
    input_type: str | None = None,
    batch_size: int = 1,
    allow_flex: bool = False,
    four_bits: Sequence[int] = (),
    dense_scales: str = "channel",
) -> None:
    """Converts a SavedModel to a .tflite at `output`, in a child process.

    Args:
      saved_model: from `write_saved_model`.
      output: the file; it appears whole or not at all.
      precision: one of `PRECISIONS`.
      calibration: arrays of example inputs by input name, for int8 and int16x8.
      input_type: None for float32 inputs and outputs, "int8" or "uint8" for both.
      batch_size: rows of `calibration` fed at once; a static batch must be met exactly.
      allow_flex: let TensorFlow's own operations in where LiteRT has none.
      four_bits: how many numbers each kernel has whose values lie on a grid of 4 bits.
      dense_scales: as `export_tflite` has it.

    Raises:
      ConversionError: the converter failed or its process died.
    """
    with _files.whole(output) as fresh, temporary_folder() as folder:
        request = {
            # In full: the process stands where we stood when it started.
            "saved_model": os.path.abspath(saved_model.directory),
            "inputs": saved_model.inputs,
            "outputs": list(saved_model.outputs),
            "output": os.path.abspath(fresh),
            "precision": precision,
            "calibration": _written(calibration or {}, saved_model.inputs, folder),
            "input_type": input_type,
            "batch_size": batch_size,
            "allow_flex": allow_flex,
            "four_bits": list(four_bits),
            "dense_scales": dense_scales,
        }
        _run_worker(request)


def _written(
    calibration: Mapping[str, np.ndarray], inputs: Mapping[str, str], folder: str
) -> dict[str, str]:
    files = {}
    for number, (name, array) in enumerate(calibration.items()):
        files[inputs[name]] = os.path.join(folder, f"calibration_{number}.npy")
        plain = in_bytes(array) if array.dtype == object else array
        np.save(files[inputs[name]], plain, allow_pickle=False)
    return files


def _run_worker(request: dict[str, Any]) -> None:
    try:
        failure, log, code = WORKER.ask(request)["failure"], "", 1
    except EndedError as error:
        failure, log, code = {"message": "", "traceback": ""}, error.log, error.code
    if failure:
        raise _conversion_error(request, code, failure, log)


def _child_environment() -> dict[str, str]:
    environment = launch.environment(
        TF_CPP_MIN_LOG_LEVEL="3",
        KERAS_BACKEND="tensorflow",
        # A training session may hold all of a GPU's memory; the converter needs none.
        CUDA_VISIBLE_DEVICES="-1",
    )
    environment.pop("TF_USE_LEGACY_KERAS", None)
    return environment


# Warm, and one for all conversions: its start costs as much as a small model's conversion.
WORKER = Processes("converter_worker", _child_environment)


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder for what the converter reads; what killed conversions left there is removed."""
    parent = Path(tempfile.gettempdir())
    _files.sweep(parent, [_SCRATCH])
    with _files.scratch(parent, _SCRATCH) as folder:
        yield os.fspath(folder)


def _conversion_error(
    request: dict[str, Any], code: int, failure: dict[str, str], log: str
) -> ConversionError:
    asked = f"Could not convert the model to TFLite at precision {request['precision']!r}"
    text = failure["message"] or log
    words = f"{asked}: {_reason(request, code, text)}"
    error = ConversionError(words, _failed_nodes(request, code, text))
    error.__cause__ = RuntimeError(failure["traceback"] or _tail(log) or "no output")
    return error


def _reason(request: dict[str, Any], code: int, text: str) -> str:
    flex = _named(r"(?:Flex|TF Select) ops: ([^\n]+)", text)
    unrunnable = _named(r"\(Flex(\w+)\) failed to prepare", text)
    if unrunnable:
        return (
            f"calibration runs the model, and TensorFlow here has no Flex delegate to run "
            f"{unrunnable} with. Replace the layers that use it, or take a precision without "
            f"calibration: float32, float16 or dynamic_int8."
        )
    if flex:
        return (
            f"it needs Select TF ops that LiteRT has no kernel for: {flex}. Replace the layers "
            f"that use them, or export with allow_flex=True and ship the Flex delegate."
        )
    custom = _named(r"Custom ops: ([^\n]+)", text)
    if custom:
        tried = "" if request["allow_flex"] else " (allow_flex=True covers other operations)"
        return (
            f"neither LiteRT nor TensorFlow's Flex delegate has a kernel for: {custom}. Replace "
            f"the layers that use them by others{tried}."
        )
    legalize = _named(r"failed to legalize operation '([\w.]+)'", text)
    quantize = _named(r"not yet supported for op: '(\w+)'", text)
    if legalize or quantize:
        return (
            f"could not convert op {legalize or quantize}. Replace the layer that uses it, or "
            f"try {'allow_flex=True' if legalize else 'dynamic_int8'}."
        )
    if _named(_NO_RANGE, text):
        nodes = [name.rpartition("/")[2] for name in _failed_nodes(request, code, text)]
        return (
            f"it computes with whole numbers ({', '.join(dict.fromkeys(nodes))}), and at int16x8 "
            f"the converter looks for their range. Compute them before the model, or take "
            f"precision='int8'."
        )
    if code < 0:
        return (
            f"the converter's process was killed by {signal_name(code)}. Recurrent "
            f"layers and loops crash it at int8 (unroll=True helps), and too little memory ends "
            f'it; precision="dynamic_int8" or "float32" needs less of it.'
        )
    return f"the converter's process ended with exit code {code}: {_said(text)}"


def _said(text: str) -> str:
    """The first error of the converter's, without its place; else the last line."""
    lines = [line for line in text.strip().splitlines() if line.strip() and "note:" not in line]
    errors = [line.split("error:", 1)[1].strip() for line in lines if "error:" in line]
    if errors:
        return re.sub(r"^loc\(.*?\): ", "", errors[0])
    return lines[-1] if lines else "it said nothing"


def _failed_nodes(request: dict[str, Any], code: int, text: str) -> list[str]:
    if code < 0:
        with contextlib.suppress(OSError):
            return nodes_of(request["saved_model"], ("While", "StatelessWhile"))
    if tensor := _named(_NO_RANGE, text):
        return readers_of_tensor(request["saved_model"], tensor)
    errors = [line for line in text.splitlines() if "error:" in line]
    found = [re.search(r'fused\["\w+:", "([^"@]+)@', line) for line in errors]
    return list(dict.fromkeys(one.group(1) for one in found if one))


def _named(pattern: str, text: str) -> str:
    return ", ".join(dict.fromkeys(found.strip() for found in re.findall(pattern, text)))


def _tail(log: str) -> str:
    return "\n".join(log.strip().splitlines()[-30:])

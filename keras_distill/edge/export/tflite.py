"""Writing a Keras 3 model as a .tflite that was opened and run before it takes its place."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _files, litert
from keras_distill.edge.analysis import Analysis
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.export import arguments, words
from keras_distill.edge.export.prepare import prepared
from keras_distill.edge.export.rows import calibration_of, data_for, rows_seen
from keras_distill.edge.export.settling import converted
from keras_distill.edge.export.sizes import closed_specs
from keras_distill.edge.interface import Interface, in_float32, interface_of
from keras_distill.edge.joins import warn_of_narrow
from keras_distill.edge.lookups import check_lookups
from keras_distill.edge.quantize.aware import quantize_aware
from keras_distill.edge.quantize.weights import grids_of
from keras_distill.edge.records import TFLiteExport
from keras_distill.edge.tflite_file import FileContent, append_labels, check_labels, read_content
from keras_distill.graph.traits import traits_of
from keras_distill.litert import converter
from keras_distill.litert.converter import CALIBRATED, ConversionError

# Of smaller kernels the converter makes no integers at dynamic_int8.
LEAST_DYNAMIC = 1024


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    precision: str = "float32",
    representative_data: Any = None,
    input_type: str | None = None,
    batch_size: int | None = 1,
    input_shape: Any = None,
    allow_flex: bool = False,
    dense_scales: str = "channel",
    labels: Sequence[str] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> TFLiteExport:
    """Writes `model` as a .tflite, converted in a child process, run once, then put at `path`.

    Args:
      model: a built Keras 3 model, Functional, Sequential or subclassed; compressed ones are
        stripped by themselves. One trained in mixed precision is exported in float32. It is not
        changed.
      path: the file; what is there stays until the new file has run.
      precision: "float32"; "float16" weights; "dynamic_int8" weights, float activations (the
        converter leaves weights of under 1,024 values as they are); "int8" throughout;
        "int16x8": int16 activations, int8 weights.
      representative_data: inputs like those to come, at least some hundred, for int8 and
        int16x8; any data argument, its labels are ignored. A model from `quantize_aware` needs
        none where every tensor has a range, and else takes the data it was calibrated on.
      input_type: None for float32 in and out; "int8" or "uint8" for both, at precision int8. With
        a Rescaling at the model's beginning, "uint8" takes an image's bytes as they are.
      batch_size: the file's fixed batch, or None for an open one.
      input_shape: sizes for what the model's Input leaves open: the shape of a row, as in
        (224, 224, 3); of several inputs a dict by name or a list in their order. None stays open.
      allow_flex: let in TensorFlow's own operations where LiteRT has none. Such a file needs the
        Flex delegate, which Python mostly lacks: it is written without having run.
      dense_scales: at int8, "channel": a scale for each output of a Dense; "tensor": one for its
        whole kernel, up to 16 bytes an output less, for interpreters whose kernels take no other.
        It follows the model less closely. A model from `quantize_aware` has the scales that it
        was given there, and its file has them without being asked.
      labels: class names stored in the file, one a class of the output.
      input_names, output_names: names in the file, in the model's order; by default the model's.

    Returns:
      A `TFLiteExport`.

    Raises:
      ConversionError: the converter failed or crashed, or LiteRT cannot run what it wrote.
      ValueError, TypeError: an argument is wrong; found before any conversion.
      OSError: nothing can be written at `path`; found before any conversion.

    Example:
      export = export_tflite(model, "digits.tflite", precision="int8", representative_data=x)
    """
    arguments.check_options(precision, representative_data, input_type, batch_size)
    path, names = Path(path), None if labels is None else check_labels(labels)
    given = Analysis(model)
    arguments.check_exact_inputs(input_type, given)
    given, seen = given.of(in_float32(model)), rows_seen(model)
    source, data = _computing_exactly(given, precision, representative_data)
    scales = arguments.scales_of_dense(dense_scales, precision, source)
    ready, interface = _ready(source, precision, input_shape, input_names, output_names)
    arguments.check_input_type(input_type, interface)
    calibration = calibration_of(data_for(ready, precision, data, seen), interface)
    if not allow_flex:
        check_lookups(ready.lookups, calibrated=calibration is not None)
    if precision == "int8" and calibration is not None and not source.has_ranges:
        rows = keras.tree.map_structure(calibration.get, interface.structure)
        warn_of_narrow(source.model, source.wrapped, rows)
    specs = {
        name: tf.TensorSpec((batch_size, *spec.shape[1:]), spec.dtype)
        for name, spec in interface.specs.items()
    }
    sizes = _of_four_bits(given, precision)
    with _files.whole(path) as fresh, converter.temporary_folder() as folder:
        traced = words.traced(ready, interface, specs, folder)
        arguments.check_label_count(names, traced.outputs)
        convert = functools.partial(
            words.convert,
            ready,
            traced,
            fresh,
            precision=precision,
            input_type=input_type,
            batch_size=batch_size or 1,
            allow_flex=allow_flex,
            dense_scales=scales,
            four_bits=sizes,
        )
        calibration = converted(convert, fresh, calibration, seen, ready, interface)
        if names is not None:
            append_labels(fresh, names)
        runner, content = _proven(fresh, specs, calibration)
        _check_four_bits(sizes, content)
    if content.coarse_softmax:
        words.warn_of_coarse(ready, content.coarse_softmax)
    return _record(path, precision, runner, content, ready)


def _of_four_bits(model: Analysis, precision: str) -> list[int]:
    """How many numbers each kernel has that the file is to hold at 4 bits."""
    if precision not in ("int8", "dynamic_int8"):
        return []
    kernels: dict[bytes, int] = {}
    for one in model.layers:
        if not isinstance(one, Compressed):
            continue
        for key, grid in grids_of(one).items():
            if grid.bits != 4:
                continue
            kernel = one.treated_weights()[key].numpy()
            # Beside real numbers LiteRT has no depthwise convolution with INT4.
            alone = traits_of(one.layer).depthwise == key or kernel.size < LEAST_DYNAMIC
            if precision == "int8" or not alone:
                # The converter holds equal kernels once.
                kernels[kernel.tobytes()] = kernel.size
    return list(kernels.values())


def _check_four_bits(sizes: list[int], content: FileContent) -> None:
    held = content.dtypes.get("int4", 0)
    if held < len(sizes):
        raise ConversionError(
            f"Of {len(sizes)} kernels of 4 bits {held} came into the file as such. Leave the "
            f"others at 8 bits: quantize_aware(..., weight_bits={{name: 4}})."
        )


def _computing_exactly(model: Analysis, precision: str, data: Any) -> tuple[Analysis, Any]:
    """The model and data of which the converter rounds no exact values that are computed.

    It gives a range to whatever is calibrated on rows; ranges of ours leave such values out.
    """
    if precision not in CALIBRATED or (data is None and not model.has_ranges):
        return model, data
    # Of 65,536 steps columns of unlike units have enough.
    unlike = precision == "int8" and bool(model.normalized)
    if not model.computed_exactly and not unlike:
        return model, data
    # Rows would give the unlike columns one range, too: what they settle stays in float instead.
    if precision == "int8" and (unlike or not model.open_inside):
        if model.has_ranges:
            return model, None
        return model.of(quantize_aware(model.model, calibration_data=data)), None
    why = f"rows have to settle the ranges inside {list(model.open_inside)}"
    warnings.warn(
        f"{list(model.computed_exactly)} of {model.model.name!r} compute ids, categories or marks, "
        f"which this file rounds: {why if model.open_inside else 'at int16x8'}. Compute them "
        f'before the model, or in whole numbers from a keras.Input(shape, dtype="int32").',
        UserWarning,
        stacklevel=3,
    )
    return model, data


def _ready(
    source: Analysis,
    precision: str,
    input_shape: Any,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> tuple[Analysis, Interface]:
    """The model that is converted, and how it is called: its open sizes closed as asked."""
    interface = interface_of(source.model, input_names, output_names)
    specs = closed_specs(interface, input_shape)
    ready = prepared(source, precision, None if input_shape is None else list(specs.values()))
    if ready is not source:
        interface = interface_of(ready.model, input_names, output_names)
    return ready, replace(interface, specs=specs)


def _proven(
    path: Path,
    specs: dict[str, tf.TensorSpec],
    calibration: dict[str, np.ndarray] | None,
) -> tuple[litert.TFLiteRunner, FileContent]:
    """The file, opened, and run once where this machine has all its kernels."""
    open_sizes = any(size is None for spec in specs.values() for size in spec.shape[1:])
    try:
        # A crash of LiteRT's is found in the child; what has run there may run here.
        runner = litert.load_tflite(path, isolated=True)
        content = read_content(path)
        runnable = not any(name.startswith("Flex") for name in content.ops)
        if calibration is not None:
            runner.predict({name: array[:1] for name, array in calibration.items()})
        elif runnable and not open_sizes:
            runner.predict(
                {
                    name: np.zeros((1, *spec.shape[1:]), spec.dtype.as_numpy_dtype)
                    for name, spec in specs.items()
                }
            )
    except (ValueError, RuntimeError) as error:
        said = str(error).replace(f"LiteRT cannot run {path}: ", "").replace(f" {path}", " it")
        raise ConversionError(f"LiteRT cannot run the converted file: {said}") from error
    litert.trust(path)
    return runner, content


def _record(
    path: Path, precision: str, runner: litert.TFLiteRunner, content: FileContent, model: Analysis
) -> TFLiteExport:
    counts = dict(vars(content))
    float_names, _ = counts.pop("float_names"), counts.pop("coarse_softmax")
    return TFLiteExport(
        path=path,
        precision=precision,
        inputs=runner.inputs,
        outputs=runner.outputs,
        labels=runner.labels,
        **counts,
        float_layers=words.layers_named(model, float_names) if precision in CALIBRATED else (),
    )

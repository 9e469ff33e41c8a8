"""Writing a Keras 3 model as a .tflite that was opened and run before it takes its place."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_distill import _files, litert
from keras_distill.edge.compress.layer import exporting
from keras_distill.edge.export import words
from keras_distill.edge.export.prepare import has_ranges, prepared, without_inner_ranges
from keras_distill.edge.export.rows import calibration_of, data_for, rows_seen
from keras_distill.edge.export.sizes import closed_specs
from keras_distill.edge.export.unrounded import computed_exactly, exact_inputs
from keras_distill.edge.interface import Interface, in_float32, interface_of
from keras_distill.edge.joins import warn_of_narrow
from keras_distill.edge.lookups import check_lookups, holds_lookups, tables_of
from keras_distill.edge.quantize.aware import quantize_aware
from keras_distill.edge.records import TFLiteExport
from keras_distill.edge.tflite_file import FileContent, append_labels, check_labels, read_content
from keras_distill.litert import converter
from keras_distill.litert.converter import CALIBRATED, PRECISIONS, ConversionError


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
    _check_options(precision, representative_data, input_type, batch_size)
    path = Path(path)
    _check_exact_inputs(input_type, model)
    seen = rows_seen(model)
    model, data = _computing_exactly(in_float32(model), precision, representative_data)
    source = model
    interface = interface_of(model, input_names, output_names)
    sizes = closed_specs(interface, input_shape)
    model = prepared(model, precision, None if input_shape is None else list(sizes.values()))
    if model is not source:
        interface = interface_of(model, input_names, output_names)
    interface = replace(interface, specs=sizes)
    _check_input_type(input_type, interface)
    calibration = calibration_of(data_for(model, precision, data, seen), interface)
    if not allow_flex:
        check_lookups(model, calibrated=calibration is not None)
    if precision == "int8" and calibration is not None and not has_ranges(source):
        warn_of_narrow(source, keras.tree.map_structure(calibration.get, interface.structure))
    specs = {
        name: tf.TensorSpec((batch_size, *spec.shape[1:]), spec.dtype)
        for name, spec in interface.specs.items()
    }
    names = None if labels is None else check_labels(labels)
    with _files.whole(path) as fresh, converter.temporary_folder() as saved:
        with exporting(), words.open_sizes_named(specs):
            traced = converter.write_saved_model(
                interface.call, specs, saved, [*model.variables, *tables_of(model)]
            )
        _check_label_count(names, traced.outputs)
        converted = functools.partial(
            words.convert,
            model,
            traced,
            fresh,
            precision=precision,
            input_type=input_type,
            batch_size=batch_size or 1,
            allow_flex=allow_flex,
        )
        calibration = _settled(converted, fresh, calibration, seen, model, interface)
        if names is not None:
            append_labels(fresh, names)
        runner, content = _proven(fresh, specs, calibration)
    counts = dict(vars(content))
    float_names, coarse = counts.pop("float_names"), counts.pop("coarse_softmax")
    if coarse:
        words.warn_of_coarse(model, coarse)
    return TFLiteExport(
        path=path,
        precision=precision,
        inputs=runner.inputs,
        outputs=runner.outputs,
        labels=runner.labels,
        **counts,
        float_layers=words.layers_named(model, float_names) if precision in CALIBRATED else (),
    )


def _check_exact_inputs(input_type: str | None, model: Any) -> None:
    found = [] if input_type is None else exact_inputs(model)
    if found:
        raise ValueError(
            f"input_type={input_type!r} rounds inputs to 256 steps, and the inputs {list(found)} "
            f"are ids, categories or marks. Leave input_type out, or give them a whole dtype: "
            f'keras.Input(shape, dtype="int32").'
        )


def _computing_exactly(model: keras.Model, precision: str, data: Any) -> tuple[keras.Model, Any]:
    """The model and data of which the converter rounds no exact values that are computed.

    It gives a range to whatever is calibrated on rows; ranges of ours leave such values out.
    """
    computed = computed_exactly(model) if precision in CALIBRATED else ()
    if not computed or (data is None and not has_ranges(model)):
        return model, data
    open_inside = without_inner_ranges(model)
    if precision == "int8" and not open_inside:
        return model if has_ranges(model) else quantize_aware(model, calibration_data=data), None
    why = f"rows have to settle the ranges inside {open_inside}" if open_inside else "at int16x8"
    warnings.warn(
        f"{list(computed)} of {model.name!r} compute ids, categories or marks, which this file "
        f"rounds: {why}. Compute them before the model, or in whole numbers from a "
        f'keras.Input(shape, dtype="int32").',
        UserWarning,
        stacklevel=3,
    )
    return model, data


def _settled(
    convert: Callable[..., None],
    path: Path,
    calibration: dict[str, np.ndarray] | None,
    seen: Any,
    model: keras.Model,
    interface: Interface,
) -> dict[str, np.ndarray] | None:
    """Writes the file, with as many tensors in integers as the ranges at hand allow.

    Returns:
      The rows on which the converter settled what the model's own ranges leave open.
    """
    if calibration is None or not has_ranges(model):
        convert(calibration=calibration)
        if not has_ranges(model):
            return calibration
        content = read_content(path)
        # What is computed exactly has no range on purpose.
        left_open = content.float_ops and not (computed_exactly(model) or holds_lookups(model))
        calibration = calibration_of(seen, interface) if left_open else None
        if calibration is None:
            return None
    try:
        convert(calibration=calibration)
        return calibration
    except ConversionError:
        # Rows give the inputs of float operations ranges, which may not fit the model's own.
        convert(calibration=None)
        return None


def _check_options(
    precision: str, representative_data: Any, input_type: str | None, batch_size: int | None
) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision to be one of {PRECISIONS}; got {precision!r}.")
    if precision not in CALIBRATED and representative_data is not None:
        raise ValueError(
            f"representative_data is used only at {CALIBRATED}; precision is {precision!r}."
        )
    if input_type not in (None, "int8", "uint8"):
        raise ValueError(f"Expected input_type None, 'int8' or 'uint8'; got {input_type!r}.")
    if input_type is not None and precision != "int8":
        raise ValueError(f"input_type={input_type!r} needs precision='int8'; got {precision!r}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"Expected batch_size of 1 or more, or None; got {batch_size!r}.")


def _check_input_type(input_type: str | None, interface: Interface) -> None:
    kinds = {name: spec.dtype.name for name, spec in interface.specs.items()}
    if input_type is not None and not any("float" in kind for kind in kinds.values()):
        raise ValueError(
            f"input_type={input_type!r} quantises inputs of real numbers; this model's are whole "
            f"numbers already: {kinds}. Leave input_type out."
        )


def _check_label_count(labels: tuple[str, ...] | None, outputs: dict[str, tf.TensorSpec]) -> None:
    if labels is None:
        return
    classes = {name: spec.shape[-1] for name, spec in outputs.items() if spec.shape.rank}
    if len(labels) not in classes.values():
        raise ValueError(
            f"Expected a label for each class of an output, of sizes {classes}; "
            f"got {len(labels)} labels."
        )


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

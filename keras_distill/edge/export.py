"""Writing a Keras 3 model as a .tflite that was opened and run before it takes its place."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .. import converter, litert
from ..converter import CALIBRATED, PRECISIONS, ConversionError
from ..data import batches
from .interface import Interface, in_float32, interface_of
from .records import TFLiteExport
from .tflite_file import FileContent, append_labels, check_labels, read_content


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    precision: str = "float32",
    representative_data: Any = None,
    input_type: str | None = None,
    batch_size: int | None = 1,
    allow_flex: bool = False,
    labels: Sequence[str] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> TFLiteExport:
    """Writes `model` as a .tflite, converted in a child process, run once, then put at `path`.

    Args:
      model: a built Keras 3 model, Functional, Sequential or subclassed. One trained in mixed
        precision is exported in float32. It is not changed.
      path: the file; what is there stays until the new file has run.
      precision: "float32"; "float16" weights; "dynamic_int8" weights, float activations (the
        converter leaves weights of under 1,024 values as they are); "int8" throughout;
        "int16x8": int16 activations, int8 weights.
      representative_data: inputs like those to come, at least some hundred, for int8 and
        int16x8; any data argument, its labels are ignored.
      input_type: None for float32 in and out; "int8" or "uint8" for both, at precision int8.
      batch_size: the file's fixed batch, or None for an open one.
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
    model = in_float32(model)
    interface = interface_of(model, input_names, output_names)
    calibration = _calibration(representative_data, interface)
    specs = {
        name: tf.TensorSpec((batch_size, *spec.shape[1:]), spec.dtype)
        for name, spec in interface.specs.items()
    }
    names = None if labels is None else check_labels(labels)
    with _folder_beside(path) as beside, tempfile.TemporaryDirectory() as saved:
        traced = converter.write_saved_model(interface.call, specs, saved, model.variables)
        _check_label_count(names, traced.outputs)
        fresh = Path(beside, path.name)
        converter.convert(
            traced,
            fresh,
            precision=precision,
            calibration=calibration,
            input_type=input_type,
            batch_size=batch_size or 1,
            allow_flex=allow_flex,
        )
        if names is not None:
            append_labels(fresh, names)
        runner, content = _proven(fresh, specs, calibration)
        os.replace(fresh, path)
    return TFLiteExport(
        path=path,
        precision=precision,
        inputs=runner.inputs,
        outputs=runner.outputs,
        labels=runner.labels,
        **vars(content),
    )


def _check_options(
    precision: str, representative_data: Any, input_type: str | None, batch_size: int | None
) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision to be one of {PRECISIONS}; got {precision!r}.")
    if precision in CALIBRATED and representative_data is None:
        raise ValueError(
            f"precision={precision!r} needs representative_data: some hundred inputs like those "
            f"to come, from which the ranges of the activations are read."
        )
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


def _calibration(data: Any, interface: Interface) -> dict[str, np.ndarray] | None:
    if data is None:
        return None
    rows = [interface.flat_inputs(x) for x, _, _ in batches(data)]
    columns = {}
    for (name, spec), parts in zip(interface.specs.items(), zip(*rows, strict=True), strict=True):
        array = np.concatenate(parts).astype(spec.dtype.as_numpy_dtype)
        if not spec.shape.is_compatible_with(array.shape):
            raise ValueError(
                f"representative_data: the input {name!r} expects rows of shape "
                f"{tuple(spec.shape[1:])}; got an array of {array.shape}."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"representative_data: the input {name!r} has NaN or infinite values.")
        columns[name] = array
    return columns


def _check_label_count(labels: tuple[str, ...] | None, outputs: dict[str, tf.TensorSpec]) -> None:
    if labels is None:
        return
    classes = {name: spec.shape[-1] for name, spec in outputs.items() if spec.shape.rank}
    if len(labels) not in classes.values():
        raise ValueError(
            f"Expected a label for each class of an output, of sizes {classes}; "
            f"got {len(labels)} labels."
        )


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[str]:
    folder = path.absolute().parent
    if path.is_dir():
        raise IsADirectoryError(f"Expected a file to write; {path} is a folder.")
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected an existing folder for {path}; create {folder} first.")
    try:
        # In the same folder, because os.replace is atomic only within one file system.
        temporary = tempfile.TemporaryDirectory(dir=folder, prefix=".keras_distill_export_")
    except OSError as error:
        raise PermissionError(f"Expected a folder to write into; {folder}: {error}.") from error
    with temporary as name:
        yield name


def _proven(
    path: Path,
    specs: dict[str, tf.TensorSpec],
    calibration: dict[str, np.ndarray] | None,
) -> tuple[litert.TFLiteRunner, FileContent]:
    """The file, opened, and run once where this machine has all its kernels."""
    open_sizes = any(size is None for spec in specs.values() for size in spec.shape[1:])
    try:
        runner = litert.load_tflite(path)
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
        raise ConversionError(f"LiteRT cannot run the converted file: {error}") from error
    return runner, content

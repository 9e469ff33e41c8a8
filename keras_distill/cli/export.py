"""`keras-distill export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_distill.cli.shared import (
    AsJson,
    ImageSize,
    Model,
    Modules,
    Overwrite,
    Rescale,
    guarded,
    print_record,
)


class Precision(StrEnum):
    """As `edge.export_tflite` has them."""

    float32 = "float32"
    float16 = "float16"
    dynamic_int8 = "dynamic_int8"
    int8 = "int8"
    int16x8 = "int16x8"


def export(
    model: Model,
    output: Annotated[Path, typer.Option(help="The file for the phone, a .tflite.")],
    precision: Annotated[
        Precision, typer.Option(help="Of weights; int8 and int16x8 of activations, too.")
    ] = Precision.float32,
    data: Annotated[
        str | None,
        typer.Option(
            help="For int8 and int16x8 of a model that quantize has not made: as in quantize. A "
            "folder's class names go into the file."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Examples of --data that are used.")] = 2000,
    image_size: ImageSize = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SIZE,...",
            help="Closes sizes that the model leaves open: 224,224,3, or tokens=128 once an input.",
        ),
    ] = None,
    rescale: Rescale = None,
    modules: Modules = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a .tflite that has run once. Verify it with keras-distill verify."""

    def work() -> int:
        from keras_distill import edge
        from keras_distill.pipeline import inputs, writing

        writing.check(output, ".tflite", overwrite)
        loaded = inputs.load_model(model)
        options: dict[str, Any] = {"image_size": image_size, "rescale": rescale}
        given = inputs.representative(loaded, precision.value, data, limit=limit, **options)
        with inputs.usage_errors():
            record = edge.export_tflite(
                loaded,
                output,
                precision=precision.value,
                input_shape=_shapes(input_shape),
                **given,
            )
        print_record(record, as_json)
        return 0

    raise typer.Exit(guarded(work, modules))


def _shapes(given: list[str] | None) -> Any:
    """`--input-shape` as `export_tflite` takes it.

    Raises:
      ValueError: no sizes, several without names, or a name twice.
    """
    if not given:
        return None
    named = {}
    for one in given:
        name, _, sizes = one.rpartition("=")
        if not all(size.strip().isdecimal() for size in sizes.split(",")):
            raise ValueError(f"Expected --input-shape as 224,224,3 or tokens=128; got {one!r}.")
        if name and name in named:
            raise ValueError(f"Expected one --input-shape an input; got {name!r} twice.")
        named[name] = tuple(map(int, sizes.split(",")))
    if "" in named and (len(named) > 1 or len(given) > 1):
        raise ValueError("Expected a name before each --input-shape of several: tokens=128.")
    return named.get("", named)

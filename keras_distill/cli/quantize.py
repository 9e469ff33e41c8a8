"""`keras-distill quantize`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_distill.cli.shared import Data, ImageSize, Model, Modules, Overwrite, Rescale, guarded


def quantize(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option(help="The quantised model, a .keras file.")],
    limit: Annotated[int, typer.Option(min=1, help="Examples that set the ranges.")] = 2000,
    image_size: ImageSize = None,
    rescale: Rescale = None,
    modules: Modules = None,
    overwrite: Overwrite = False,
) -> None:
    """A copy that computes as its int8 file will, its ranges set by data: to distil, to export."""

    def work() -> int:
        from keras_distill import edge
        from keras_distill.pipeline import inputs, writing

        writing.check(output, ".keras", overwrite)
        loaded = inputs.load_model(model)
        found = inputs.load_data(
            data, loaded, limit=limit, part="train", image_size=image_size, rescale=rescale
        )
        with inputs.usage_errors():
            quantised = edge.quantize_aware(loaded, calibration_data=found.examples)
            writing.save(quantised, output)
            layers = edge.inspect(quantised).counts
        kinds = ", ".join(f"{count} {kind}" for kind, count in layers.items())
        typer.echo(f"{output}: ranges of {found.rows:,} examples; layers: {kinds}")
        return 0

    raise typer.Exit(guarded(work, modules))

"""`keras-distill profile`."""

from typing import Annotated

import typer

from keras_distill.cli.shared import AsJson, Model, Modules, guarded, print_record


def profile(
    model: Model,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SIZES",
            help="Settles open sizes, batch left out: 224,224,3, or for each of several inputs "
            "image=224,224,3.",
        ),
    ] = None,
    modules: Modules = None,
    as_json: AsJson = False,
) -> None:
    """Layer by layer and whole: parameters, FLOPs, activation memory, bytes, for one example."""

    def work() -> int:
        from keras_distill.pipeline import arguments, inputs
        from keras_distill.transfer import profile as profiled

        shape = arguments.shapes(input_shape or [])
        loaded = inputs.load_model(model)
        with inputs.usage_errors():
            print_record(profiled(loaded, input_shape=shape), as_json)
        return 0

    raise typer.Exit(guarded(work, modules))

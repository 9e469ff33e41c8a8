"""`keras-distill inspect`."""

import typer

from keras_distill.cli.shared import AsJson, Model, Modules, guarded, print_record


def inspect(
    model: Model,
    modules: Modules = None,
    as_json: AsJson = False,
) -> None:
    """Layer by layer: what can be pruned and quantised, how, and why not."""

    def work() -> int:
        from keras_distill.edge.inspection import inspect as inspected
        from keras_distill.pipeline import inputs

        loaded = inputs.load_model(model)
        with inputs.usage_errors():
            print_record(inspected(loaded), as_json)
        return 0

    raise typer.Exit(guarded(work, modules))

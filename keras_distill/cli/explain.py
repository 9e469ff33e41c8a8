"""`keras-distill explain`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_distill.cli.shared import ImageSize, Modules, Rescale, guarded


def explain(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="What has learned.")],
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="What has taught.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="digits, fashion_mnist, a .npz of x and y, or a folder of images, a folder a "
            "class.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The folder for record and pictures.")],
    class_names: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes or numbers in the models' order, with commas between; those "
            "of a folder or data set by themselves.",
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(help="classes or numbers; auto takes one unit for a number.")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows.")] = None,
    image_size: ImageSize = None,
    rescale: Rescale = None,
    modules: Modules = None,
) -> None:
    """What the student learned, and what not: agreement, calibration, layers, worst examples."""

    def work() -> int:
        from keras_distill._extras import install_hint
        from keras_distill.pipeline import inputs

        with inputs.usage_errors():
            # First: a long pass must not end in a missing library, or before somebody's files.
            try:
                from keras_distill.explaining import explain, folder, pictures  # noqa: F401
            except ModuleNotFoundError as error:
                raise ValueError(f"pictures need matplotlib: {install_hint('demo')}") from error
            folder.check_folder(output)
        models = inputs.load_model(student), inputs.load_model(teacher)
        found = inputs.load_data(
            data, models[0], limit=limit, image_size=image_size, rescale=rescale
        )
        with inputs.usage_errors():
            names = found.class_names if class_names is None else class_names.split(",")
            record = explain(*models, found.examples, task=task, class_names=names)
            files = record.save(output)
        typer.echo(str(record))
        typer.echo(f"\nWritten to {output}: {', '.join(path.name for path in files)}")
        return 0

    raise typer.Exit(guarded(work, modules))

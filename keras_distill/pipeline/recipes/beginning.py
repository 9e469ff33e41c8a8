"""`keras-distill recipe init`: a shipped recipe as a file of the user's own."""

from pathlib import Path

from keras_distill import _files
from keras_distill.pipeline import writing
from keras_distill.pipeline.recipes.reading import nearest, read_recipe
from keras_distill.pipeline.recipes.shipped import SHIPPED, shipped_text
from keras_distill.training.stages import UsageError

__all__ = ["begin"]


def begin(name: str | None, output: Path | None, overwrite: bool) -> str:
    """Write it, and say where; without a name, say which there are.

    Raises:
      UsageError: there is none of that name, or the file can't be written.
    """
    if name is None:
        lines = [f"{one}: {read_recipe(shipped_text(one), one).description}" for one in SHIPPED]
        return "\n".join(lines)
    if name not in SHIPPED:
        raise UsageError(
            f"NAME is one of {', '.join(SHIPPED)}; got {name}.{nearest(name, SHIPPED)}"
        )
    output = output or Path(f"{name}.yaml")
    writing.check(output, ".yaml", overwrite)
    _files.write(output, shipped_text(name).encode())
    return f"{output}: change it, then keras-distill run {output}"

"""From a recipe to resumable stages to a report; the command line is its face."""

from typing import TYPE_CHECKING, Any

from keras_distill.training.chain import distill_chain
from keras_distill.training.chain_report import ChainReport, Generation

if TYPE_CHECKING:
    from keras_distill.pipeline.recipes.reading import load_recipe
    from keras_distill.pipeline.recipes.recipe import Recipe
    from keras_distill.pipeline.runs.running import run_recipe

__all__ = ["ChainReport", "Generation", "Recipe", "distill_chain", "load_recipe", "run_recipe"]


def __getattr__(name: str) -> Any:
    # Imported when they are asked for: pydantic takes its time.
    if name == "Recipe":
        from keras_distill.pipeline.recipes.recipe import Recipe

        return Recipe
    if name == "load_recipe":
        from keras_distill.pipeline.recipes.reading import load_recipe

        return load_recipe
    if name == "run_recipe":
        from keras_distill.pipeline.runs.running import run_recipe

        return run_recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

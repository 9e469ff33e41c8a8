"""What each stage of a recipe reads, and which stage made it."""

from collections.abc import Mapping
from dataclasses import dataclass

from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.recipes.stages import (
    Cache,
    Explain,
    Export,
    Judge,
    Learning,
    Quantize,
    StageOf,
    Verify,
)

__all__ = ["Step", "plan"]

REPORTING = (Cache, Export, Verify, Judge, Explain)


@dataclass(frozen=True)
class Step:
    """A stage in its place.

    Args:
      stage: of the recipe.
      models: by line, the title of the stage that made its model; None for the recipe's own.
      floats: the same, before it was quantised.
      files: by line, the title of the stage that exported its last file.
      made: the titles of all files before it, with their lines.
      reads: the titles of the stages whose files it reads.
    """

    stage: StageOf
    models: Mapping[str, str | None]
    floats: Mapping[str, str | None]
    files: Mapping[str, str]
    made: Mapping[str, str]
    reads: tuple[str, ...]

    @property
    def title(self) -> str:
        """The stage's name."""
        return self.stage.title


def plan(recipe: Recipe) -> tuple[Step, ...]:
    """The recipe's stages with what each reads."""
    models: dict[str, str | None] = {
        name: None for name, one in recipe.models.items() if one.build or one.file
    }
    floats, files, made, steps = dict(models), dict[str, str](), dict[str, str](), []
    for stage in recipe.stages:
        reads = _reads(stage, models, floats, files, made)
        steps.append(Step(stage, dict(models), dict(floats), dict(files), dict(made), reads))
        if isinstance(stage, Export):
            files[stage.model] = stage.title
            made[stage.title] = stage.model
        if isinstance(stage, REPORTING):
            continue
        line = stage.goes_to
        models[line] = stage.title
        quantized = isinstance(stage, Quantize) or stage.stage in ("calibrate", "reconstruct")
        # What the quantised model is compared with is what it was made from.
        floats[line] = floats.get(stage.model) if quantized else stage.title
    return tuple(steps)


def _reads(
    stage: StageOf,
    models: Mapping[str, str | None],
    floats: Mapping[str, str | None],
    files: Mapping[str, str],
    made: Mapping[str, str],
) -> tuple[str, ...]:
    if isinstance(stage, Judge):
        found = [*models.values(), *made]
    else:
        found = [models.get(line) for line in stage.reads]
    if isinstance(stage, Verify):
        file = stage.file or files[stage.model]
        found += [file, models[stage.model], floats[stage.model]]
    if isinstance(stage, Learning):
        found.append(stage.cache)
    return tuple(dict.fromkeys(one for one in found if one is not None))

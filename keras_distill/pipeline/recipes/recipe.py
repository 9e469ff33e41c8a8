"""A recipe: data, models, and the stages that lead from a teacher to a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator, model_validator

from keras_distill.pipeline.recipes.sources import Data, ModelSource
from keras_distill.pipeline.recipes.stages import (
    AnyStage,
    Export,
    Learning,
    Quantize,
    Reconstruct,
    StageOf,
    Training,
    Verify,
)
from keras_distill.pipeline.recipes.strict import Name, RecipeError, Strict
from keras_distill.pipeline.recipes.tune import Tune, faults

__all__ = ["Recipe", "Smoke"]

QUANTIZED = ("calibrate", "reconstruct")


class Smoke(Strict):
    """How a recipe is made small enough to be tried: `--smoke`.

    Args:
      data: in the place of the recipe's own.
      rows: training examples at most.
      epochs: of each training at most.
      iterations: of each reconstruction at most.
    """

    data: Data | None = None
    rows: Annotated[int, Field(ge=16)] = 512
    epochs: Annotated[int, Field(ge=1)] = 1
    iterations: Annotated[int, Field(ge=1)] = 20


class Recipe(Strict):
    """What is to be made, of which data and models, in which stages.

    Args:
      name: of the recipe.
      description: what it is for, in a sentence or two.
      seed: of weights, batches and choices.
      data: see `Data`.
      models: the lines of models by name, see `ModelSource`. A line's model is what its last stage
        made of it.
      stages: in order, see `stages`.
      smoke: see `Smoke`.
      tune: see `Tune`.

    >>> recipe = Recipe.model_validate({
    ...     "name": "small", "data": {"set": "digits"},
    ...     "models": {"teacher": {"build": "cnn"}, "student": {"build": "small_cnn"}},
    ...     "stages": [{"stage": "train", "model": "teacher", "labels": "all"},
    ...                {"stage": "distil"}, {"stage": "export", "precision": "int8"}]})
    >>> [stage.title for stage in recipe.stages]
    ['train-teacher', 'distil-student', 'export-student-int8']
    """

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data
    models: dict[Name, ModelSource]
    stages: Annotated[tuple[AnyStage, ...], Field(min_length=1)]
    smoke: Smoke = Smoke()
    tune: Tune | None = None

    @field_validator("stages")
    @classmethod
    def _named_once(cls, stages: tuple[StageOf, ...], info: ValidationInfo) -> tuple[StageOf, ...]:
        seen: set[str] = set()
        for index, stage in enumerate(stages):
            if stage.title.lower() in seen:
                raise _error(index, None, f"a second stage is called {stage.title}: give a name")
            seen.add(stage.title.lower())
        return stages

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        for problem in _problems(self):
            raise problem
        for problem in faults(self) if self.tune is not None else ():
            raise problem
        return self

    def changed(
        self, *, seed: int | None = None, labels: float | None = None, epochs: int | None = None
    ) -> Recipe:
        """The recipe with another seed, another part of known labels, other lengths of trainings.

        Args:
          seed, labels: in place of the recipe's; None for its own.
          epochs: of each stage that trains.
        """
        values = self.model_dump(by_alias=True)
        if seed is not None:
            values["seed"] = seed
        if labels is not None:
            values["data"]["labels"] = labels
        if epochs is not None:
            for stage, one in zip(values["stages"], self.stages, strict=True):
                if isinstance(one, Training) and one.epochs:
                    stage["epochs"] = epochs
        return Recipe.model_validate(values)

    def for_smoke(self) -> Recipe:
        """The recipe with its `smoke` applied: little data, short trainings."""
        smoke = self.smoke
        data = smoke.data or self.data
        rows = smoke.rows if data.rows is None else min(smoke.rows, data.rows)
        stages = []
        for stage in self.stages:
            changed: dict = {}
            if isinstance(stage, Training):
                changed["epochs"] = min(stage.epochs, smoke.epochs)
            if isinstance(stage, Reconstruct):
                changed["iterations"] = min(stage.iterations, smoke.iterations)
                changed["examples"] = min(stage.examples, 64)
            stages.append(stage.model_copy(update=changed))
        data = data.model_copy(update={"rows": rows})
        return self.model_copy(update={"data": data, "stages": tuple(stages)})


def _error(
    stage: int, key: str | None, words: str, allowed: tuple[str, list[str]] | None = None
) -> RecipeError:
    """What is wrong with one stage, or with one of its keys."""
    return RecipeError(("stages", stage) if key is None else ("stages", stage, key), words, allowed)


def _problems(recipe: Recipe) -> Iterator[RecipeError]:
    """Stages whose models, files or caches are not there when they come."""
    there = {
        name
        for name, source in recipe.models.items()
        if source.build is not None or source.file is not None
    }
    files: dict[str, str] = {}
    caches: dict[str, str] = {}
    quantized: set[str] = set()
    for index, stage in enumerate(recipe.stages):
        for line in stage.reads:
            if line not in there:
                key = "model" if line == stage.model else _key_of(stage, line)
                yield _error(index, key, _missing(line, there), (line, sorted(there)))
        if stage.stage in QUANTIZED and stage.model not in quantized:
            yield _error(
                index, "stage", f"{stage.stage} needs a stage quantize of {stage.model} before it"
            )
        if isinstance(stage, Verify):
            wanted = stage.file or files.get(stage.model)
            if wanted is None or wanted not in files.values():
                known = ", ".join(files.values()) or "none so far"
                key = "file" if stage.file else "model"
                yield _error(index, key, f"no file is exported before it; exported: {known}")
        if isinstance(stage, Learning) and stage.cache is not None:
            if stage.cache not in caches:
                known = ", ".join(caches) or "none so far"
                yield _error(index, "cache", f"no stage cache of that name before it; {known}")
            elif stage.teachers != (caches[stage.cache],):
                yield _error(index, "cache", f"it holds the answers of {caches[stage.cache]}")
        if isinstance(stage, Export):
            files[stage.model] = stage.title
        if stage.stage == "cache":
            caches[stage.title] = stage.model
        if isinstance(stage, Quantize):
            quantized.add(stage.goes_to)
        elif isinstance(stage, Training) or stage.begins or stage.stage == "transfer":
            quantized.discard(stage.goes_to)
        there.add(stage.goes_to)


def _key_of(stage: StageOf, line: str) -> str:
    return "source" if getattr(stage, "source", None) == line else "teacher"


def _missing(line: str, there: set[str]) -> str:
    return f"there is no model {line} at this place; there are {', '.join(sorted(there))}"

"""What a stage works with: the run's data, the models that earlier stages made, its own folder."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from keras_distill import teachers
from keras_distill.pipeline.inputs import load_model
from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.runs.examples import Examples, load_examples
from keras_distill.pipeline.runs.models import begun
from keras_distill.pipeline.runs.plan import Step

__all__ = ["MODEL", "Bench", "Workshop", "tflite_name"]

MODEL = "model.keras"
Heard = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Workshop:
    """What all stages of a run share.

    Args:
      recipe: with `--smoke` applied.
      folder: of the run.
      root: where the recipe's paths start.
      allowed: modules that a recipe may name.
    """

    recipe: Recipe
    folder: Path
    root: Path
    allowed: Collection[str] = ()

    @cached_property
    def examples(self) -> Examples:
        """The data, read once."""
        return load_examples(self.recipe.data, self.recipe.seed, self.root, self.allowed)

    def begun(self, line: str) -> keras.Model:
        """A line's model as the recipe begins it; the same weights whenever it is asked for."""
        keras.utils.set_random_seed(self.seed(f"models.{line}"))
        source = self.recipe.models[line]
        return begun(line, source, self.examples, self.root, self.allowed)

    def seed(self, name: str) -> int:
        """A seed for each purpose, decided by the recipe's."""
        digest = hashlib.sha256(f"{self.recipe.seed} {name}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True)
class Bench:
    """One stage's place in the workshop.

    Args:
      shop: see there.
      step: which stage.
      into: an empty folder for what it makes.
      kept: a folder that outlives a kill, for a training under way.
      mark: a digest of what decides the stage's result.
      heard: hears of each batch.
    """

    shop: Workshop
    step: Step
    into: Path
    kept: Path
    mark: str
    heard: Heard

    @property
    def examples(self) -> Examples:
        """The run's data."""
        return self.shop.examples

    def model(self, line: str) -> keras.Model:
        """What the stages before this one have made of a line."""
        return self._of(self.step.models[line], line)

    def float_model(self, line: str) -> keras.Model:
        """The same, before it was quantised."""
        return self._of(self.step.floats[line], line)

    def _of(self, title: str | None, line: str) -> keras.Model:
        if title is None:
            return self.shop.begun(line)
        return load_model(self.shop.folder / title / MODEL)

    def teacher(self, lines: Collection[str]) -> Any:
        """The line's model, or the ensemble of several."""
        models = [self.model(line) for line in lines]
        return models[0] if len(models) == 1 else teachers.Ensemble(models)

    def file(self, title: str) -> Path:
        """The `.tflite` that a stage exported."""
        stage = next(one for one in self.shop.recipe.stages if one.title == title)
        return self.shop.folder / title / tflite_name(stage)


def tflite_name(stage: Any) -> str:
    """What an export's file is called."""
    return f"{stage.model}-{stage.precision}.tflite"

"""What decides a stage's result by the recipe alone, in the form that a run's record keeps."""

import hashlib
import json
from typing import Any

from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.recipes.stages import StageOf
from keras_distill.pipeline.runs.plan import Step

__all__ = ["digest", "settings_of", "sources_of"]


def settings_of(stage: StageOf) -> dict[str, Any]:
    """A stage as JSON takes it, without name and defaults: later versions have more of these."""
    return stage.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)


def sources_of(recipe: Recipe, step: Step) -> dict[str, dict[str, Any]]:
    """The models that the stage reads as the recipe begins them, by line."""
    lines = step.models if step.stage.stage == "judge" else step.stage.reads
    return {
        line: recipe.models[line].model_dump(mode="json", exclude_none=True)
        for line in lines
        if step.models.get(line) is None
    }


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

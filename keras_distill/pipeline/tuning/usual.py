"""The space of a recipe that names none."""

from typing import Any

from keras_distill.pipeline.recipes.places import find_keys, value_at
from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.recipes.strict import RecipeError
from keras_distill.pipeline.recipes.tune import Range, Tune, faults
from keras_distill.training.stages import UsageError

__all__ = ["with_space"]


def with_space(recipe: Recipe) -> Recipe:
    """The recipe with a `tune` whose space is its own, or the usual one.

    That is, around the recipe's own values, the temperature, label weight and learning rate of the
    last distillation of the measured file's model, and the width of that model.

    Raises:
      UsageError: the recipe exports no file, or has nothing of these.
    """
    tune = recipe.tune or Tune()
    files = {stage.title: stage for stage in recipe.stages if stage.stage == "export"}
    if not files:
        raise UsageError(f"{recipe.name}: a search measures files: it needs a stage export.")
    file = tune.file or list(files)[-1]
    space: dict[str, Any] = tune.space or _usual(recipe, files[file].model)
    if not space:
        raise UsageError(
            f"{recipe.name}: there is nothing that is usually searched: no stage distil of "
            f"{files[file].model}, and no width of it. Say what to search under tune.space."
        )
    found = recipe.model_copy(update={"tune": Tune(space=space, file=file)})
    for fault in faults(found):
        raise UsageError(f"{recipe.name}: {'.'.join(map(str, fault.path))}: {fault}")
    return found


def _usual(recipe: Recipe, line: str) -> dict[str, Range]:
    distilled = [one for one in recipe.stages if one.stage == "distil" and one.goes_to == line]
    found: dict[str, Range] = {}
    for stage in distilled[-1:]:
        at = f"stages.{stage.title}"
        _add(recipe, found, f"{at}.objectives.0.temperature", _temperatures)
        _add(recipe, found, f"{at}.label_weight", _label_weights)
        _add(recipe, found, f"{at}.learning_rate", _rates)
    begun = {line, *(one.model for one in distilled[-1:])}
    for name in sorted(begun):
        _add(recipe, found, f"models.{name}.arguments.width", _widths)
    for other in recipe.stages:
        if other.stage == "shrink" and other.goes_to in begun:
            _add(recipe, found, f"stages.{other.title}.width", _parts)
    return found


def _add(recipe: Recipe, found: dict[str, Range], place: str, around: Any) -> None:
    """A range around what stands there, if that is a number."""
    try:
        own = value_at(recipe, find_keys(recipe, place))
    except RecipeError:
        return
    if type(own) in (int, float) and (values := around(own)) is not None:
        found[place] = values


def _temperatures(own: float) -> Range:
    return Range(low=min(1.0, own), high=max(16.0, own), log=True)


def _label_weights(own: float) -> Range:
    return Range(low=0.0, high=max(0.9, own))


def _rates(own: float) -> Range:
    return Range(low=own / 10, high=own * 3, log=True)


def _widths(own: float) -> Range | None:
    return Range(low=max(1, own // 2), high=own * 2) if type(own) is int else None


def _parts(own: float) -> Range:
    return Range(low=own / 2, high=(own + 1) / 2)

"""What a search may change in a recipe, and the values that a study may hold of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_distill.pipeline.recipes.places import Keys, changed, find_keys, value_at
from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.recipes.tune import Range
from keras_distill.pipeline.runs.plan import plan

__all__ = ["Parameter", "Space", "space_of"]


@dataclass(frozen=True)
class Parameter:
    """One place in the recipe.

    Args:
      place: its name, see `find_keys`.
      keys: that lead to it.
      values: a `Range`, or the choices, as a recipe with every default written holds them.
      own: the recipe's own value, in the same form.
    """

    place: str
    keys: Keys
    values: Range | tuple[Any, ...]
    own: Any

    def distribution(self) -> Any:
        """What Optuna draws from; a choice goes by its JSON."""
        from optuna import distributions

        if not isinstance(self.values, Range):
            return distributions.CategoricalDistribution([_as_json(one) for one in self.values])
        low, high, step = self.values.low, self.values.high, self.values.step
        if self.values.whole(self.own):
            options: dict[str, Any] = {"log": self.values.log, "step": int(step or 1)}
            return distributions.IntDistribution(int(low), int(high), **options)
        return distributions.FloatDistribution(low, high, log=self.values.log, step=step)

    def facts(self) -> list[Any]:
        """All of it as JSON takes it."""
        values = self.values.model_dump() if isinstance(self.values, Range) else list(self.values)
        return [self.place, values, self.own]

    def drawn(self, value: Any) -> Any:
        """The recipe's value for what a study says was drawn.

        Raises:
          ValueError: it is none of the space's.
        """
        if isinstance(self.values, Range):
            if self.values.holds(value, self.values.whole(self.own)):
                return value
        else:
            for choice in self.values:
                if value == _as_json(choice):
                    return choice
        raise ValueError(f"{self.place} = {value!r}, which the recipe does not let it be")

    @property
    def first(self) -> Any:
        """The recipe's own value as a study keeps it."""
        return self.own if isinstance(self.values, Range) else _as_json(self.own)


@dataclass(frozen=True)
class Space:
    """All that a search may change.

    Args:
      recipe: whose places these are.
      parameters: see `Parameter`.
      measured: the number of the stage whose file is measured.
    """

    recipe: Recipe
    parameters: tuple[Parameter, ...]
    measured: int

    def drawn(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe's values by place, for a study's.

        Raises:
          ValueError: a place that is none of the space's, a value that is none, or one is missing.
        """
        known = [one.place for one in self.parameters]
        values = {place: self.drawn_at(place, value) for place, value in found.items()}
        if missing := [place for place in known if place not in values]:
            raise ValueError(f"nothing for {missing[0]}")
        return {place: values[place] for place in known}

    def drawn_at(self, place: str, value: Any) -> Any:
        """The recipe's value at one place, for a study's.

        Raises:
          ValueError: see `drawn`.
        """
        for one in self.parameters:
            if one.place == place:
                return one.drawn(value)
        raise ValueError(f"{place!r}, which the recipe does not let anyone change")

    def recipe_of(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with a trial's values in their places.

        Raises:
          ValueError: these values together give none.
        """
        keys = {one.place: one.keys for one in self.parameters}
        return changed(self.recipe, {keys[place]: value for place, value in values.items()})

    def short_of(self, recipe: Recipe) -> tuple[Recipe, str]:
        """Of one of its recipes just the stages that the measured file needs, and that one's name.

        The others read the test data, or cost time.
        """
        steps = {step.title: step for step in plan(recipe)}
        title = recipe.stages[self.measured].title
        needed, open_ = {title}, [title]
        while open_:
            found = set(steps[open_.pop()].reads) - needed
            needed |= found
            open_ += found
        stages = tuple(stage for stage in recipe.stages if stage.title in needed)
        return recipe.model_copy(update={"stages": stages, "tune": None}), title

    @property
    def short_names(self) -> dict[str, str]:
        """By place its end that no other has, for tables."""
        parts = {one.place: one.place.split(".") for one in self.parameters}
        found = {}
        for place, keys in parts.items():
            ends = (".".join(keys[-length:]) for length in range(1, len(keys) + 1))
            others = [other for other in parts if other != place]
            fitting = (
                end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)
            )
            found[place] = next(fitting, place)
        return found


def space_of(recipe: Recipe) -> Space:
    """What a recipe's `tune` says.

    Args:
      recipe: with such a section.
    """
    assert recipe.tune is not None
    parameters = []
    for place, values in recipe.tune.space.items():
        keys = find_keys(recipe, place)
        if not isinstance(values, Range):
            values = tuple(value_at(changed(recipe, {keys: one}), keys) for one in values)
        parameters.append(Parameter(place, keys, values, value_at(recipe, keys)))
    files = {
        stage.title: index for index, stage in enumerate(recipe.stages) if stage.stage == "export"
    }
    return Space(recipe, tuple(parameters), files[recipe.tune.file or list(files)[-1]])


def _as_json(choice: Any) -> str:
    return json.dumps(choice, sort_keys=True)

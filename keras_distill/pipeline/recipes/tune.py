"""What a search may change in a recipe: `tune`."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from keras_distill.pipeline.recipes.places import Keys, changed, find_keys, value_at
from keras_distill.pipeline.recipes.strict import Name, RecipeError, Strict

__all__ = ["Range", "Tune", "faults"]


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise ValueError(f"takes a number; got {value!r}")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]
# So many values are all tried as a recipe before any training; of more the two ends.
TRIED = 32


class Range(Strict):
    """Numbers from `low` to `high`, both among them.

    They are whole where `low`, `high`, `step` and the recipe's own value are.

    Args:
      low, high: see above.
      log: as many from 1 to 10 as from 10 to 100.
      step: from one value to the next, from `low` on.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low must be less than high; got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0; got {self.low}")
        if self.step is not None:
            if self.log:
                raise ValueError("step and log exclude each other: leave one out")
            if self.step <= 0 or not self._on_grid(self.high):
                raise ValueError(
                    f"step must lead from {self.low} to {self.high} in whole steps; got {self.step}"
                )
        return self

    def _on_grid(self, value: float) -> bool:
        steps = (value - self.low) / (self.step or 1)
        return math.isclose(steps, round(steps), abs_tol=1e-6)

    def whole(self, own: Any) -> bool:
        """Whether it is of whole numbers, beside the recipe's own value."""
        given = (self.low, self.high, own, *(() if self.step is None else (self.step,)))
        return all(type(one) is int for one in given)

    def holds(self, value: Any, whole: bool) -> bool:
        """Whether a value is one of its."""
        if type(value) not in ((int,) if whole else (int, float)):
            return False
        return self.low <= value <= self.high and (self.step is None or self._on_grid(value))

    def tried(self, whole: bool) -> list[Any]:
        """All its values where these are few; else its ends."""
        step = self.step or (1 if whole else None)
        if step is None or (self.high - self.low) / step > TRIED:
            return [self.low, self.high]
        return [self.low + i * step for i in range(round((self.high - self.low) / step) + 1)]


def _form(value: Any) -> str:
    return "range" if isinstance(value, Mapping | Range) else "choices"


Choices = Annotated[tuple[Any, ...], Field(min_length=2)]
Values = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_form)
]


class Tune(Strict):
    """What `keras-distill tune` searches.

    Args:
      space: by place in the recipe what may stand there: a `Range`, or a list of choices; the
        recipe's own value is among them, and the search begins with it. By default temperature,
        label weight and learning rate of the distillation, and the student's width.
      file: the name of the stage `export` whose file is measured; by default the last one.
    """

    space: dict[str, Values] = Field(default_factory=dict)
    file: Name | None = None

    @field_validator("space", mode="before")
    @classmethod
    def _of_ranges_and_lists(cls, space: Any) -> Any:
        for place, one in space.items() if isinstance(space, Mapping) else ():
            if not isinstance(one, Mapping | list | tuple | Range):
                words = f"takes {{low, high}} or a list of choices; got {one!r}"
                raise RecipeError(("tune", "space", place), words)
        return space


def faults(recipe: Any) -> Iterator[RecipeError]:
    """Places that are not there, and values that give no recipe."""
    files = [stage.title for stage in recipe.stages if stage.stage == "export"]
    if not files:
        raise RecipeError(("tune",), "a search measures files: it needs a stage export")
    if recipe.tune.file is not None and recipe.tune.file not in files:
        words = f"no stage export is called {recipe.tune.file}: {', '.join(files)}"
        yield RecipeError(("tune", "file"), words, (recipe.tune.file, tuple(files)))
    tried: dict[Keys, list[Any]] = {}
    for place, values in recipe.tune.space.items():
        try:
            keys = find_keys(recipe, place)
            tried[keys] = _tried(recipe, keys, values)
            _try_inside(recipe, keys, tried)
        except RecipeError as error:
            yield RecipeError(("tune", "space", place), str(error), error.allowed)


def _tried(recipe: Any, keys: Keys, values: Range | tuple[Any, ...]) -> list[Any]:
    own = value_at(recipe, keys)
    if isinstance(values, Range):
        whole = values.whole(own)
        if not values.holds(own, whole):
            raise RecipeError((), f"the search begins at the recipe's own {own!r}: {_outside(own)}")
        for value in (found := values.tried(whole)):
            _changed(recipe, {keys: value})
        return found
    written = [
        json.dumps(value_at(_changed(recipe, {keys: value}), keys), sort_keys=True)
        for value in values
    ]
    if len(set(written)) < len(written):
        raise RecipeError((), "one of the choices stands there twice")
    if json.dumps(own, sort_keys=True) not in written:
        raise RecipeError((), f"the search begins at the recipe's own {own!r}: add it")
    return list(values)


def _outside(own: Any) -> str:
    if type(own) not in (int, float):
        return "no number; give choices"
    return "take it in, or write another value there"


def _try_inside(recipe: Any, keys: Keys, tried: Mapping[Keys, list[Any]]) -> None:
    """Try a place's values together with those of what holds it, and of what it holds."""
    for others, values in tried.items():
        if others != keys and (keys[: len(others)] == others or others[: len(keys)] == keys):
            for value in tried[keys]:
                for other in values:
                    _changed(recipe, {keys: value, others: other})


def _changed(recipe: Any, values: Mapping[Keys, Any]) -> Any:
    try:
        return changed(recipe, values)
    except (ValueError, LookupError, TypeError) as error:
        listed = " with ".join(f"{value!r}" for value in values.values())
        raise RecipeError((), f"{listed} gives no recipe: {error}") from error

"""Places in a recipe, such as `stages.distil-student.label_weight`: read, and changed."""

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from keras_distill.pipeline.recipes.named import OBJECTIVES, taken_by
from keras_distill.pipeline.recipes.strict import RecipeError

__all__ = ["Keys", "changed", "find_keys", "value_at"]

Keys = tuple[str | int, ...]
TOPS = ("models", "stages")


def find_keys(recipe: Any, place: str) -> Keys:
    """The keys that lead to a place, a stage's number in the place of its name.

    Args:
      recipe: see `Recipe`.
      place: `models` or `stages`, a name, and keys, with dots between; a list's entries go by their
        numbers, from 0.

    Raises:
      RecipeError: the recipe has no such place; its `path` is empty.
    """
    top, _, rest = place.partition(".")
    if top not in TOPS:
        raise RecipeError((), f"a place begins with models or stages; got {place}", (top, TOPS))
    numbers: dict[str, str | int] = {one: one for one in recipe.models}
    if top == "stages":
        numbers = {stage.title: number for number, stage in enumerate(recipe.stages)}
    # A name may have dots of its own.
    fitting = [name for name in numbers if rest == name or rest.startswith(f"{name}.")]
    if not fitting:
        name = rest.partition(".")[0]
        words = f"there is no {name} among the {top}: {', '.join(numbers)}"
        raise RecipeError((), words, (name, tuple(numbers)))
    name = max(fitting, key=len)
    parts = [one for one in rest[len(name) :].split(".") if one]
    if not parts:
        raise RecipeError((), f"{place} is a whole: name a key inside it, such as {place}.…")
    node: Any = _plain(recipe)[top][numbers[name]]
    keys: list[str | int] = [top, numbers[name]]
    for part in parts:
        key = _key(node, part, place)
        node = _inside(node, key)
        keys.append(key)
    return tuple(keys)


def value_at(recipe: Any, keys: Keys) -> Any:
    """What stands at a place, in JSON's types; of an objective its default, where none is given."""
    node = _plain(recipe)
    for key in keys:
        node = _inside(node, key)
    return node


def changed(recipe: Any, values: Mapping[Keys, Any]) -> Any:
    """The recipe with other values at some places, and without what it says of a search.

    Raises:
      ValueError: that is no recipe; the first reason in words.
    """
    plain = _plain(recipe)
    # First what holds others: an objective before its temperature.
    for keys in sorted(values, key=len):
        _put(plain, keys, values[keys])
    try:
        return type(recipe).model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        words = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{first['loc'][-1]}: {words}" if first["loc"] else words) from error


def _put(node: Any, keys: Keys, value: Any) -> None:
    for key, following in pairwise(keys):
        if isinstance(node[key], str) and isinstance(following, str):
            node[key] = {"objective": node[key]}
        node = node[key]
    node[keys[-1]] = copy.deepcopy(value)


def _plain(recipe: Any) -> Any:
    return recipe.model_dump(mode="json", by_alias=True, exclude={"tune"})


def _key(node: Any, part: str, place: str) -> str | int:
    if isinstance(node, list):
        if not (part.isascii() and part.isdigit() and int(part) < len(node)):
            there = f"{len(node)} entries, from 0" if node else "no entries"
            raise RecipeError((), f"{part} of {place}: the list has {there}")
        return int(part)
    if isinstance(node, Mapping):
        allowed = (*node, *(one for one in _arguments(node) if one not in node))
        if part in allowed:
            return part
        words = f"{part} of {place} is not there"
        listed = f": {', '.join(allowed)}" if allowed else ""
        raise RecipeError((), f"{words}{listed}. Write its value there", (part, allowed))
    raise RecipeError((), f"{part} of {place}: {node!r} stands there, and holds nothing")


def _inside(node: Any, key: str | int) -> Any:
    if isinstance(node, Mapping):
        default = _arguments(node).get(str(key))
        found = node.get(key, default)
        # YAML's 4 for 4.0.
        return float(found) if isinstance(default, float) and type(found) is int else found
    return node[key]


def _arguments(node: Any) -> dict[str, Any]:
    """What an objective takes, with its defaults; nothing of what is no objective."""
    name = node if isinstance(node, str) else None
    if isinstance(node, Mapping):
        name = node.get("objective")
    kind = OBJECTIVES.get(name) if isinstance(name, str) else None
    if kind is None:
        return {}
    found = taken_by(kind).items()
    return {key: one.default for key, one in found if one.default is not one.empty}

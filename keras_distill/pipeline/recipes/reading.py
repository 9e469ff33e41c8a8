"""A recipe's file, read: plain YAML and no more, and each error with its file, line and key."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.recipes.shipped import SHIPPED, shipped_text
from keras_distill.pipeline.recipes.strict import RecipeError
from keras_distill.training.stages import UsageError

__all__ = ["load_recipe", "read_recipe", "written"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML's plain values, with 1e-3 a number as in YAML 1.2, and yes and no words as there."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in (_BOOL, _FLOAT, _TIME)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    for _BOOL, _FLOAT, _TIME in [
        ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    ]
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a file, or a shipped one by its name.

    Args:
      path: of a YAML file, or a name in `SHIPPED`.

    Raises:
      UsageError: it is no such file or no recipe; each fault in a line with file, line and key.
    """
    name = str(path)
    if name in SHIPPED:
        return read_recipe(shipped_text(name), f"{name}.yaml")
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{file} must be a recipe of at most {MAX_BYTES:,} bytes.")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = nearest(name.removesuffix(".yaml"), SHIPPED)
        raise UsageError(
            f"there is no recipe at {file}. Shipped ones go by their names: {', '.join(SHIPPED)}."
            f"{near}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} can't be read as a recipe: {error}") from error
    return read_recipe(text, name)


def read_recipe(text: str, name: str = "recipe") -> Recipe:
    """The recipe in a YAML text.

    Args:
      text: see `Recipe` for what it may hold.
      name: of the file, for the errors.

    Raises:
      UsageError: see `load_recipe`.
    """
    values, lines = _parsed(text, name)
    try:
        return Recipe.model_validate(values, strict=False)
    except ValidationError as error:
        faults = {}
        for one in error.errors():
            line, key, words = _fault(one, lines)
            # Of a union each member complains; the last one of ours knows most.
            faults[line, key] = f"{name}:{line}: {key}{': ' if key else ''}{words}"
        raise UsageError("\n".join(faults.values())) from error


def written(recipe: Recipe) -> str:
    """A recipe as YAML, every default in it, which reads as the same recipe."""
    plain = recipe.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _parsed(text: str, name: str) -> tuple[Any, dict[Key, int]]:
    if len(text.encode()) > MAX_BYTES:
        raise UsageError(f"{name} must be a recipe of at most {MAX_BYTES:,} bytes.")
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise _at(event.start_mark, name, "anchors and aliases are not read: write it out")
        root = yaml.compose(text, Loader=_Loader)
        if not isinstance(root, yaml.MappingNode):
            raise UsageError(f"{name}: a recipe is a mapping of name, data, models and stages.")
        lines: dict[Key, int] = {}
        return _plain(root, (), lines, name), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise UsageError(f"{name}{line}: no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: no YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UsageError(f"{name}: nested more than {MAX_DEPTH} deep") from None


def _plain(node: Any, place: Key, lines: dict[Key, int], name: str) -> Any:
    """A node as plain values, the line of each key noted on the way."""
    lines.setdefault(place, node.start_mark.line + 1)
    if len(place) > MAX_DEPTH:
        raise _at(node.start_mark, name, f"nested more than {MAX_DEPTH} deep")
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise _at(node.start_mark, name, f"{node.tag} asks for an object: plain values only")
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                raise _at(key.start_mark, name, "a key is a word, and is none here")
            if key.value in found:
                raise _at(key.start_mark, name, f"the key {key.value} stands here twice")
            lines[(*place, key.value)] = key.start_mark.line + 1
            found[key.value] = _plain(value, (*place, key.value), lines, name)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(one, (*place, i), lines, name) for i, one in enumerate(node.value)]
    try:
        return _Loader("").construct_object(node)
    except (ValueError, yaml.YAMLError) as error:
        raise _at(node.start_mark, name, f"{node.value} can't be read: {error}") from error


def _at(mark: Any, name: str, words: str) -> UsageError:
    return UsageError(f"{name}:{mark.line + 1}: {words}")


def _fault(error: Mapping[str, Any], lines: dict[Key, int]) -> tuple[int, str, str]:
    """One of pydantic's errors as a person reads it: line, key, words."""
    cause = error.get("ctx", {}).get("error")
    place: Key = cause.path if isinstance(cause, RecipeError) else tuple(error["loc"])
    # A union's member stands in the place as well; a key is what the file has.
    known: list[str | int] = []
    for part in place:
        if (*known, part) in lines or (error["type"] == "missing" and part is place[-1]):
            known.append(part)
    heads = (tuple(known[:length]) for length in range(len(known), -1, -1))
    line = next(lines[head] for head in heads if head in lines)
    return line, _written_place(known), _words(error, place)


def _written_place(place: list[str | int]) -> str:
    words = ""
    for part in place:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else part
    return words


def _words(error: Mapping[str, Any], place: Key) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _allowed_keys(place)
        return f"no such key; allowed: {', '.join(allowed)}.{nearest(str(place[-1]), allowed)}"
    if kind == "missing":
        return "is missing"
    if kind in ("union_tag_invalid", "literal_error"):
        listed = context.get("expected_tags") or context.get("expected", "")
        allowed = re.findall(r"'([^']*)'", listed) or [listed]
        given = context.get("tag", error.get("input"))
        return f"{given} is none of {', '.join(allowed)}.{nearest(str(given), allowed)}"
    if kind == "union_tag_not_found":
        return f"which stage? Give stage: one of {', '.join(_stage_kinds())}"
    if kind == "value_error":
        words = str(context["error"])
        if isinstance(cause := context["error"], RecipeError) and cause.allowed:
            words += f".{nearest(*cause.allowed)}"
        elif found := re.search(r"takes (.*); got (\S+)$", words):
            words += f".{nearest(found[2], re.split(', | or ', found[1]))}"
        return words
    if kind == "string_pattern_mismatch":
        return f"{error['input']!r} is no name here: it must match {context['pattern']}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{message}; got {error.get('input')!r}"


def _allowed_keys(place: Key) -> list[str]:
    """The keys that the schema allows where an unknown one stands."""
    schema = Recipe.model_json_schema()
    node: Any = schema
    for part in place[:-1]:
        node = _inside(node, part, schema)
    node = _resolved(node, schema)
    both = (node, *(_resolved(one, schema) for one in _choices(node)))
    return [key for one in both for key in one.get("properties", ())]


def _inside(node: Any, part: str | int, schema: Mapping) -> Any:
    node = _resolved(node, schema)
    for candidate in (node, *(_resolved(one, schema) for one in _choices(node))):
        if isinstance(part, int):
            if "items" in candidate:
                return candidate["items"]
        elif part in candidate.get("properties", {}):
            return candidate["properties"][part]
        elif isinstance(candidate.get("additionalProperties"), Mapping):
            return candidate["additionalProperties"]
        mapping = candidate.get("discriminator", {}).get("mapping", {})
        if part in mapping:
            return {"$ref": mapping[part]}
    return node  # the name of a union's member, not a key


def _choices(node: Mapping) -> Iterator[Any]:
    yield from node.get("anyOf", ())
    yield from node.get("oneOf", ())


def _resolved(node: Any, schema: Mapping) -> Any:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _stage_kinds() -> list[str]:
    stages = Recipe.model_json_schema()["properties"]["stages"]["items"]
    return sorted(stages["discriminator"]["mapping"])


def nearest(word: str, allowed: Any) -> str:
    """A sentence with the nearest spelling, or nothing."""
    found = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {found[0]}?" if found else ""

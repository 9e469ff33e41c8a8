"""Which layer of the student takes over from which layer of the teacher."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from keras_distill.transfer.copying.weighted import NUMBERED, Layers, holder_of, kind, parts_of

BY_NAME, BY_ORDER = "name", "order"


def match(
    teacher_layers: Mapping[str, Any], student_layers: Mapping[str, Any], mapping: Any
) -> dict[str, str]:
    """Finds for each layer of the student its partner in the teacher. Shapes are not looked at.

    Args:
      teacher_layers, student_layers: as `weighted_layers` gives them.
      mapping: "name": of equal path, else of a last name that is unique on both sides, where
        unnamed layers inside a user's own are counted; "order": the i-th of each class with the
        i-th; or a mapping from student layers to teacher layers, each a path, the end of one, or
        the layer.

    Returns:
      The teacher's path by the student's, one to one, in the student's order.

    Raises:
      TypeError: `mapping` is none of these.
      ValueError: it names a layer that is not there, or one layer twice.

    >>> import keras
    >>> layers = {"a/conv": keras.layers.Conv2D(2, 3), "a/out": keras.layers.Dense(2)}
    >>> match(layers, {"b/conv": layers["a/conv"]}, "name")
    {'b/conv': 'a/conv'}
    """
    if isinstance(mapping, Mapping):
        pairs = _by_map(teacher_layers, student_layers, mapping)
    elif mapping == BY_NAME:
        pairs = _by_name(teacher_layers, student_layers)
    elif mapping == BY_ORDER:
        pairs = _by_order(teacher_layers, student_layers)
    else:
        error = ValueError if isinstance(mapping, str) else TypeError
        raise error(
            f'mapping is "name", "order" or a dict of student layers to teacher layers; got '
            f"{mapping!r}."
        )
    return {path: pairs[path] for path in student_layers if path in pairs}


def find(layers: Mapping[str, Any], asked: Any, whose: str) -> str:
    """The path of the one layer that `asked` names: a path, the end of one, or the layer.

    Args:
      layers: as `weighted_layers` gives them.
      asked: what the user wrote.
      whose: "student" or "teacher", for the error.

    Raises:
      ValueError: none or several answer to it.
    """
    hits = _hits(layers, asked)
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise ValueError(
            f"{asked!r} names {len(hits)} layers of the {whose}: {', '.join(hits)}. Give the path."
        )
    raise ValueError(_missing(layers, asked, whose))


def find_all(layers: Mapping[str, Any], asked: Any, whose: str) -> list[str]:
    """As `find`, and where `asked` is a nested model or its name, the paths of all in it."""
    if isinstance(asked, str):
        inside = [path for path in layers if f"/{asked}/" in f"/{path}"]
    else:
        parts = {id(part) for part in parts_of(asked)} if hasattr(asked, "weights") else set()
        inside = [path for path, layer in layers.items() if id(holder_of(layer)) in parts]
    if not inside or asked in layers:
        return [find(layers, asked, whose)]
    return inside


def _missing(layers: Mapping[str, Any], asked: Any, whose: str) -> str:
    name = asked if isinstance(asked, str) else getattr(asked, "name", str(asked))
    last = {path.rpartition("/")[2]: path for path in layers}
    near = difflib.get_close_matches(name, layers, 3, 0.4) or [
        last[close] for close in difflib.get_close_matches(name.rpartition("/")[2], last, 3, 0.4)
    ]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"The {whose} has no layer with weights called {name!r}.{hint} Its layers with weights are "
        f"{', '.join(layers)}."
    )


def _hits(layers: Mapping[str, Any], asked: Any) -> list[str]:
    if not isinstance(asked, str):
        return [path for path, layer in layers.items() if layer is asked]
    if asked in layers:
        return [asked]
    return [path for path in layers if path.endswith(f"/{asked}")]


def _by_name(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> dict[str, str]:
    alike = _alike(teacher, student)
    theirs, mine = _by_place(teacher, alike), _by_place(student, alike)
    pairs = {path: theirs[place] for place, path in mine.items() if place in theirs}
    ends, own_ends = _unique_last_names(theirs), _unique_last_names(mine)
    for name, path in own_ends.items():
        if path not in pairs and name in ends and ends[name] not in pairs.values():
            pairs[path] = ends[name]
    return pairs


def _alike(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> set[str]:
    """The layers of a user's own, or models, that hold as many of each kind on both sides."""
    held = []
    for layers in (teacher, student):
        inside: defaultdict[str, set[str]] = defaultdict(set)
        for place in layers.places.values() if isinstance(layers, Layers) else ():
            if NUMBERED in place:
                inside[_holder(place)].add(place)
        held.append(inside)
    return {holder for holder in held[0] if held[0][holder] == held[1].get(holder)}


def _holder(place: str) -> str:
    return place.partition(NUMBERED)[0].rpartition("/")[0]


def _by_place(layers: Mapping[str, Any], counted: set[str]) -> dict[str, str]:
    """The paths by what they are to be compared by: themselves, or counted inside these."""
    places = layers.places if isinstance(layers, Layers) else {}

    def place_of(path: str) -> str:
        place = places.get(path, path)
        return place if NUMBERED in place and _holder(place) in counted else path

    return {place_of(path): path for path in layers}


def _unique_last_names(places: Mapping[str, str]) -> dict[str, str]:
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for place, path in places.items():
        name = place.rpartition("/")[2]
        if NUMBERED not in name:
            paths[name].append(path)
    return {name: found[0] for name, found in paths.items() if len(found) == 1}


def _by_order(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> dict[str, str]:
    queues: defaultdict[str, list[str]] = defaultdict(list)
    for path, layer in teacher.items():
        queues[kind(layer)].append(path)
    pairs: dict[str, str] = {}
    for path, layer in student.items():
        if queue := queues[kind(layer)]:
            pairs[path] = queue.pop(0)
    return pairs


def _by_map(
    teacher: Mapping[str, Any], student: Mapping[str, Any], mapping: Mapping[Any, Any]
) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for mine, theirs in mapping.items():
        target, source = find(student, mine, "student"), find(teacher, theirs, "teacher")
        if target in pairs:
            raise ValueError(
                f"The mapping names the student's layer {target!r} twice, for the teacher's "
                f"{pairs[target]!r} and {source!r}. One layer takes over from one."
            )
        if source in pairs.values():
            other = next(path for path, taken in pairs.items() if taken == source)
            raise ValueError(
                f"The mapping is many-to-one: the teacher's layer {source!r} is given to "
                f"{other!r} and {target!r}. Give each student layer a teacher layer of its own."
            )
        pairs[target] = source
    return pairs

"""A student made of some of the teacher's own layers or blocks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import keras

from keras_distill import _keras
from keras_distill.data import qualified_name
from keras_distill.graph.float_only import check_float
from keras_distill.graph.replay import Graph, functional, trace
from keras_distill.graph.wrapping import wrapped_layers
from keras_distill.transfer.depth.bypass import without
from keras_distill.transfer.depth.grouping import BODY, Block, blocks, grouped
from keras_distill.transfer.depth.segments import holders
from keras_distill.transfer.report import LEFT, TransferReport

__all__ = ["Block", "blocks", "submodel"]

# Layers that a model lists and a graph does not run as such.
_WITHOUT_STEP = (keras.Model, keras.layers.InputLayer)


def submodel(
    teacher: Any, keep: Any, *, name: str | None = None, seed: int = 0
) -> tuple[Any, TransferReport]:
    """A copy of `teacher` that is less deep: some of its blocks or layers, weights taken along.

    What reads a left-out layer's output reads its input instead (the first one, of a layer of
    several). A merge (Add, Multiply, Concatenate, ...) takes a tensor that reaches it twice for
    this reason once, and goes if nothing else is left to merge: with a residual block's branch goes
    its Add. A kept layer holds the teacher's weights exactly; where another width comes in, so that
    they no longer fit, it is made anew from its config. A nested model of which something is left
    out is taken apart. Nothing is shared with the teacher, and nothing of it is changed.

    Args:
      teacher: a built Functional or Sequential model of Keras 3, nested models included.
      keep: which of `blocks(teacher)`:

        - an int k: the stem, the first k blocks of the body, the head;
        - a slice, of the body's blocks: `slice(None, None, 2)` keeps every second one. Stem and
          head stay, and so do blocks that change the shape (not `removable`);
        - a function of a `Block`, asked for each block of the body; stem and head stay;
        - names, or a list of them: exactly these stay, of stem and head too. Blocks' names; names
          or paths of layers and nested models; regular expressions of these, else of blocks'
          names. A name that a block has from its first layer means the block in a list of blocks,
          the layer in a list that names others. A `Block` and a layer mean themselves.
      name: the student's; by default the teacher's with "_submodel".
      seed: for the layers that are made anew.

    Returns:
      The student, of the teacher's inputs and outputs, and a report: `copied`; `initialised`, with
      both shapes; `left` (out), under the teacher's paths.

    Raises:
      TypeError: `keep` is none of these.
      ValueError: `keep` names nothing, or nothing that makes the outputs; what is kept does not fit
        together; the teacher has no graph, is not built or is compressed.

    Source: Sanh, Debut, Chaumond, Wolf 2019 (DistilBERT), section 3: every second layer.

    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="first")])
    >>> for layer in ("low", "high", "logits"):
    ...     teacher.add(keras.layers.Dense(8, name=layer))
    >>> student, report = submodel(teacher, 1)
    >>> report.copied, report.left
    (('first', 'low', 'logits'), ('high',))
    """
    graph = trace(teacher)
    _check(teacher, graph, seed)
    choice = _chosen(keep, grouped(graph), teacher, graph)
    for value in graph.outputs:
        if value.step is not None and value.step not in choice.kept:
            raise ValueError(
                f"keep leaves out {graph.steps[value.step].path!r}, which makes an output of "
                f"{teacher.name!r}. Keep it too; a number, a slice or a function keeps the whole "
                f"head by itself."
            )
    left_out = frozenset(range(len(graph.steps))) - choice.kept
    name = f"{teacher.name}_submodel" if name is None else name
    student, rows = without(teacher, left_out, name=name, seed=seed, why=choice.why)
    all_layers = len({step.path for step in graph.steps})
    stay = all_layers - sum(row.action == LEFT for row in rows)
    title = f"{name}: {stay} of {all_layers} layers of {teacher.name}"
    return student, TransferReport(title, tuple(rows))


@dataclass(frozen=True)
class _Choice:
    """Which steps stay, and for some layers why."""

    kept: frozenset[int]
    why: dict[str, str] = field(default_factory=dict)


def _check(teacher: Any, graph: Graph, seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"Expected seed as an int; got {seed!r}.")
    check_float(teacher)
    for path, layer in wrapped_layers(graph).items():
        raise ValueError(
            f"{teacher.name!r} is compressed (its layer {path!r} is a {qualified_name(layer)}). "
            f"Take parts of it before it is pruned, clustered or quantised, or strip it first: "
            f"submodel(kd.edge.strip(model), ...)."
        )


def _chosen(keep: Any, found: tuple[Block, ...], teacher: Any, graph: Graph) -> _Choice:
    if isinstance(keep, Integral) and not isinstance(keep, bool):
        return _first(int(keep), found)
    if isinstance(keep, slice):
        return _sliced(keep, found)
    if isinstance(keep, (str, Block, keras.layers.Layer)):
        return _named([keep], found, teacher, graph)
    if callable(keep) and not isinstance(keep, type):
        return _Choice(_steps(block for block in found if block.role != BODY or keep(block)))
    if isinstance(keep, Iterable):
        return _named(list(keep), found, teacher, graph)
    raise TypeError(
        f"Expected keep as an int, a slice, a function of a Block, or names of blocks or layers; "
        f"got {keep!r} ({qualified_name(keep)})."
    )


def _steps(found: Iterable[Block]) -> frozenset[int]:
    return frozenset(step for block in found for step in block.steps)


def _body(found: Iterable[Block]) -> list[Block]:
    return [block for block in found if block.role == BODY]


def _first(count: int, found: tuple[Block, ...]) -> _Choice:
    body = _body(found)
    if not body:
        raise ValueError(
            f"There are no blocks between stem and head to keep {count} of: the model is "
            f"{_listed(found)}. Name the layers to keep."
        )
    if not 1 <= count <= len(body):
        raise ValueError(
            f"Expected keep as a number of blocks of the body, from 1 to {len(body)}; got {count}. "
            f"The body is {_listed(body)}."
        )
    left_out = body[count:]
    return _Choice(_steps(block for block in found if block not in left_out))


def _sliced(keep: slice, found: tuple[Block, ...]) -> _Choice:
    body = _body(found)
    asked = body[keep]
    if not asked:
        raise ValueError(
            f"keep={keep} takes none of the body's {len(body)} blocks: {_listed(body)}."
        )
    others = [block for block in body if block not in asked]
    staying = [block for block in others if not block.removable]
    if others and staying == others:
        raise ValueError(
            f"keep={keep} leaves out nothing: of {_listed(others)} each changes the shape, and a "
            f"slice keeps such blocks. Name the blocks to keep, or give a function: "
            f"keep=lambda block: ..."
        )
    why = {
        path: f"{block.name} changes the shape, so a slice keeps it"
        for block in staying
        for path in block.layers
    }
    left_out = [block for block in others if block.removable]
    return _Choice(_steps(block for block in found if block not in left_out), why)


def _named(keep: Sequence, found: tuple[Block, ...], teacher: Any, graph: Graph) -> _Choice:
    if not keep:
        raise ValueError("Expected names of blocks or layers in keep; got none.")
    layers = _by_name(teacher, graph)
    by_block = {block.name: set(block.steps) for block in found}
    # "conv1" may be a block and its first layer: which is meant, the other names say.
    blocks_alone = all(asked in by_block for asked in keep if isinstance(asked, str))
    names = {**layers, **by_block} if blocks_alone else {**by_block, **layers}
    kept: set[int] = set()
    for asked in keep:
        if isinstance(asked, str):
            hits = names[asked] if asked in names else _matching(asked, layers, by_block)
        else:
            hits = _object(asked, layers, found, teacher, graph)
        if hits is None:
            raise ValueError(_not_found(asked, names, found))
        kept |= hits
    return _Choice(frozenset(kept))


def _by_name(teacher: Any, graph: Graph) -> dict[str, set[int]]:
    """The steps of each layer and nested model, by path and by name; an input has none."""
    inputs = (_keras.history(tensor).operation.name for tensor in functional(teacher).inputs)
    names: dict[str, set[int]] = {name: set() for name in inputs}
    for place, step in enumerate(graph.steps):
        for path in (step.path, *holders(step.path)):
            for key in {path, path.rpartition("/")[2]}:
                names.setdefault(key, set()).add(place)
    return names


def _matching(pattern: str, *kinds: dict[str, set[int]]) -> set[int] | None:
    """What a regular expression stands for in the first of `kinds` that has any of it."""
    try:
        matches = re.compile(pattern).fullmatch
    except re.error:
        return None
    found = ([places for key, places in kind.items() if matches(key)] for kind in kinds)
    return next((set().union(*hits) for hits in found if hits), None)


def _object(
    asked: Any, layers: dict[str, set[int]], found: Sequence[Block], teacher: Any, graph: Graph
) -> set[int] | None:
    """The steps of a block or a layer; None if it is no part of the teacher."""
    if isinstance(asked, Block):
        return set(asked.steps) if asked in found else None
    places = {place for place, step in enumerate(graph.steps) if step.operation is asked}
    if places or not any(layer is asked for layer in _keras.layers_of(teacher)):
        return places or None
    return layers.get(asked.name) if isinstance(asked, _WITHOUT_STEP) else None


def _not_found(asked: Any, names: Iterable[str], found: Iterable[Block]) -> str:
    if not isinstance(asked, str):
        shown = getattr(asked, "name", asked)
        return f"keep has {shown!r} ({qualified_name(asked)}), which is no part of the teacher."
    near = difflib.get_close_matches(asked, names, 5, 0.5)
    hint = f" The nearest are {', '.join(near)}." if near else ""
    return (
        f"keep names {asked!r}, and no block or layer answers to it.{hint} The blocks are "
        f"{_listed(found)}."
    )


def _listed(found: Iterable[Block]) -> str:
    return ", ".join(block.name for block in found) or "none"

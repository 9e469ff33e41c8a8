"""A model's blocks: what of it can be left out as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from keras_distill.graph.replay import Graph, trace
from keras_distill.graph.traits import does
from keras_distill.graph.wrapping import unwrapped
from keras_distill.transfer.depth.block_names import block_names
from keras_distill.transfer.depth.segments import (
    Chain,
    Link,
    chain,
    keeps_shape,
    normalises,
    transforms,
)

STEM, BODY, HEAD = "stem", "body", "head"


@dataclass(frozen=True)
class Block:
    """A part of a model between two tensors that all paths run through.

    Attributes:
      name: what its layers' names have in common, else its first weighted layer's; unique.
      role: "stem", "body" or "head".
      layers: its layers' paths, in order of execution.
      input_shape, output_shape: with the batch axis; a stem of several inputs has their shapes.
      removable: whether it is of the body and its output has its input's shape, so that it can
        be left out as it is.
      steps: the places of its calls in the model's order of execution: a shared layer has several.
    """

    name: str
    role: str
    layers: tuple[str, ...]
    input_shape: tuple
    output_shape: tuple
    removable: bool
    steps: tuple[int, ...] = dataclasses.field(repr=False)


def blocks(model: Any) -> tuple[Block, ...]:
    """What a model is made of, found from its graph: a stem, the body's blocks, a head.

    The graph is cut at every tensor that all paths to the main output (the deepest) run through:

    - What lies between two cuts and has branches is a block: a residual block, an inception
      module, what a dense connection spans. A gate (squeeze-excite) belongs to the block around
      it, or to the layer that it follows.
    - Where nothing branches, a layer with weights is a block with what follows it: normalisation,
      activation, pooling. Padding, and the normalisation of a pre-activated block, belong to what
      comes after them.
    - Attention and the feed-forward part after it are one block; so are a depthwise convolution
      and the pointwise ones around it (one before it, if that opened the block, and one after).
    - A nested model is one block, unless it holds more than half of the model's weighted layers (a
      backbone) or is called more than once.
    - The stem is the preprocessing and the first of these; the head begins at the global pooling
      or Flatten behind the last spatial or sequence tensor, else with the last weighted layer.
      Whatever leads to further outputs belongs to the head.

    Args:
      model: a built Functional or Sequential model of Keras 3, nested models included.

    Returns:
      The blocks in order of execution. A model of one weighted layer is a head alone.

    Raises:
      TypeError, ValueError: not a built model with a graph.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="first")])
    >>> for name in ("low", "high", "logits"):
    ...     model.add(keras.layers.Dense(8, name=name))
    >>> [(block.name, block.role) for block in blocks(model)]
    [('first', 'stem'), ('low', 'body'), ('high', 'body'), ('logits', 'head')]
    """
    return grouped(unwrapped(trace(model)))


def grouped(graph: Graph) -> tuple[Block, ...]:
    """As `blocks`, of a traced model."""
    found = chain(graph)
    if not found.links:
        return ()
    head = _head(found.links)
    body, pending = _bodies(found.links[:head])
    groups = [*body, [*pending, *found.links[head:]]]
    names = block_names(graph, groups)
    return tuple(
        _block(graph, found, group, place, len(groups), name)
        for place, (group, name) in enumerate(zip(groups, names, strict=True))
    )


def _block(
    graph: Graph, found: Chain, group: Sequence[Link], place: int, count: int, name: str
) -> Block:
    role = HEAD if place == count - 1 else BODY if place else STEM
    steps = [step for link in group for step in link.steps]
    steps += found.before if place == 0 else ()
    steps += found.after if role == HEAD else ()
    entries, exit_shape = [value.shape for value in group[0].entries], group[-1].exit.shape
    return Block(
        name=name,
        role=role,
        layers=tuple(dict.fromkeys(graph.steps[step].path for step in sorted(steps))),
        input_shape=entries[0] if len(entries) == 1 else tuple(entries),
        output_shape=exit_shape,
        removable=role == BODY and keeps_shape(graph, group),
        steps=tuple(sorted(steps)),
    )


def _head(links: Sequence[Link]) -> int:
    """Where the head begins."""
    opening = [place for place, link in enumerate(links) if _opens(link)]
    for place, link in enumerate(links):
        if opening[:1] < [place] and _reduces(link) and not any(map(_spatial, links[place:])):
            return place if opening else 0
    return opening[-1] if opening else 0


def _reduces(link: Link) -> bool:
    ranks = len(link.entries[0].shape), len(link.exit.shape)
    pooled = not link.branches and does(link.operations[0], "global pooling")
    return pooled or (ranks[0] > 2 and ranks[1] <= 2)


def _spatial(link: Link) -> bool:
    return sum(size != 1 for size in link.exit.shape[1:]) > 1


def _bodies(links: Sequence[Link]) -> tuple[list[list[Link]], list[Link]]:
    """Links that belong together; and those at the end that belong to what comes after them."""
    groups: list[list[Link]] = []
    pending: list[Link] = []
    for link, following in zip(links, [*links[1:], None], strict=False):
        if _opens(link):
            if not (groups and _completes(link, groups[-1])):
                groups.append([])
            groups[-1] += [*pending, link]
            pending = []
        elif pending or not groups or _leads(link, following, groups[-1][-1]):
            pending.append(link)
        else:
            groups[-1].append(link)
    return groups, pending


def _opens(link: Link) -> bool:
    """Whether a block can begin with it."""
    return any(map(transforms, link.operations)) and not _is_gate(link)


def _is_gate(link: Link) -> bool:
    last = type(link.operations[-1]).__name__
    return link.branches and link.keeps_shape and last == "Multiply"


def _leads(link: Link, following: Link | None, before: Link) -> bool:
    """Whether what opens nothing belongs to the block after it, not to the one before."""
    operation = link.operations[0]
    if does(operation, "padding"):
        return following is not None and _opens(following)
    if link.branches or not normalises(operation):
        return False
    if before.branches and any(map(normalises, before.operations)):
        return True
    activated = following is not None and _is_activation(following)
    return activated and (before.branches or not _opens(before))


def _is_activation(link: Link) -> bool:
    return not link.branches and does(link.operations[0], "activation", "learned activation")


def _completes(link: Link, group: Iterable[Link]) -> bool:
    """Whether it goes on with what `group` began: attention, or a separable convolution."""
    openers = [one for one in group if _opens(one)]
    if _is_feed_forward(link):
        return any(map(_attends, openers)) and not any(map(_is_feed_forward, openers))
    if _is_depthwise(link):
        return len(openers) == 1 and _is_pointwise(openers[0])
    return _is_pointwise(link) and _is_depthwise(openers[-1])


def _is_depthwise(link: Link) -> bool:
    return not link.branches and does(link.operations[0], "depthwise")


def _is_pointwise(link: Link) -> bool:
    layer = link.operations[0]
    return not link.branches and does(layer, "convolution") and not _looks_around(layer)


def _attends(link: Link) -> bool:
    return any("Attention" in type(operation).__name__ for operation in link.operations)


def _is_feed_forward(link: Link) -> bool:
    pointwise = not any(map(_looks_around, link.operations))
    return link.branches and link.keeps_shape and pointwise and not _attends(link)


def _looks_around(operation: Any) -> bool:
    """Whether it has a kernel over more than one place; a layer of one's own may say so, too."""
    size = getattr(operation, "kernel_size", 1)
    sizes = size if isinstance(size, (list, tuple)) else (size,)
    return any(one != 1 for one in sizes)

"""The command line's words: what they mean, and how they were given."""

import math
from typing import Any

from keras_distill.training.stages import UsageError

__all__ = ["image_size", "part_of", "rescale", "shapes", "words"]


def shapes(given: list[str]) -> Any:
    """`["a=8,3", "b=5"]` as a dict of shapes, `["8,3"]` as one shape; None for none."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, _, sizes = text.rpartition("=")
        if not all(size.strip().isdecimal() for size in sizes.split(",")):
            raise UsageError(f"--input-shape takes sizes such as 224,224,3; got {text}.")
        if name in shapes or (shapes and "" in (name, *shapes)):
            raise UsageError("give --input-shape once, or once an input as NAME=SIZES.")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes.get("", shapes or None)


def image_size(text: str) -> tuple[int, int]:
    """The height and width that "224,224" means.

    >>> image_size("224,160")
    (224, 160)
    """
    sizes = text.split(",")
    if len(sizes) != 2 or not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise UsageError(f"--image-size takes height and width, such as 224,224; got {text}.")
    return int(sizes[0]), int(sizes[1])


def rescale(text: str) -> tuple[float, float]:
    """The scale and offset that "1/127.5,-1" means; the offset may be left out.

    >>> rescale("1/127.5,-1"), rescale("0.5")
    ((0.00784313725490196, -1.0), (0.5, 0.0))
    """
    scale, _, offset = text.partition(",")
    over, _, under = scale.partition("/")
    try:
        found = float(over) / float(under or 1), float(offset or 0)
    except (ValueError, ZeroDivisionError):
        found = (math.nan, math.nan)
    if not all(map(math.isfinite, found)):
        raise UsageError(
            f"--rescale takes a scale and, if wanted, an offset, such as 1/255 or 1/127.5,-1; "
            f"got {text}."
        )
    return found


def words(context: Any) -> list[str]:
    """The command of a typer context, as it was given."""
    words = context.command_path.split()
    for parameter in context.command.params:
        name = str(parameter.name)
        value = context.params.get(name)
        source = context.get_parameter_source(name)
        if value is None or source is None or source.name == "DEFAULT":
            continue
        values = [str(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
        if parameter.param_type_name == "argument":
            words += values
        elif value is True:
            words.append(parameter.opts[0])
        else:
            words += [word for one in values for word in (parameter.opts[0], one)]
    return words


def part_of(text: str) -> tuple[int, int]:
    """The part that "i/n" means.

    Raises:
      UsageError: it means none.

    >>> part_of("0/4")
    (0, 4)
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise UsageError(
            f"--shard takes i/n, part i of n counted from 0: 0/2 and 1/2 are the halves; got "
            f"{text}."
        )
    return int(part), int(parts)

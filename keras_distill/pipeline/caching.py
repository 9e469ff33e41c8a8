"""A teacher cache from files: what the commands `keras-distill cache ...` do."""

import contextlib
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_distill.pipeline import arguments, inputs
from keras_distill.teachers import TeacherCache, cache
from keras_distill.training.stages import UsageError

__all__ = ["build", "load_arrays", "refusals", "repair", "stopped_words"]


def build(
    teacher: Path, data: Path, directory: Path, *, shard: str | None = None, **options: Any
) -> cache.CacheInfo:
    """Ask a saved model about the examples of a .npz.

    Args:
      teacher: a .keras file, loaded in safe mode.
      data: a .npz of x and, if there are labels, y.
      directory: the cache's.
      shard: "i/n" for part i of n, counted from 0.
      **options: of `TeacherCache.build`.

    Raises:
      UsageError: a file or an option can't be used, or the folder holds something else.
    """
    part = None if shard is None else arguments.part_of(shard)
    arrays = load_arrays(data)
    model = inputs.load_model(teacher)
    with refusals():
        TeacherCache.build(model, arrays, directory, shard=part, **options)
        return cache.info(directory)


def repair(directory: Path, teacher: Path | None, data: Path | None) -> cache.CacheReport:
    """Make the damaged shards anew, each alone.

    Raises:
      UsageError: teacher or data are missing, or not what the cache was built from.
    """
    if teacher is None or data is None:
        raise UsageError(
            "--repair asks the teacher again: give --teacher MODEL and --data DATA.npz, "
            "those that the cache was built from."
        )
    with refusals():
        report = cache.verify(directory)
    if not report.damaged:
        return report
    arrays, model = load_arrays(data), inputs.load_model(teacher)
    with refusals(), warnings.catch_warnings():
        # That it is damaged is known here.
        warnings.simplefilter("ignore", UserWarning)
        opened = TeacherCache.open(directory, arrays)
        for name in report.damaged:
            report = opened.rebuild(name, teacher=model)
    return report


def load_arrays(path: Path) -> tuple[np.ndarray, ...]:
    """The arrays `(x,)` or `(x, y)` of a .npz, no pickled objects.

    Raises:
      UsageError: it is no such file.
    """
    if path.suffix != ".npz":
        raise UsageError(
            f"the data must be a .npz file of an array x and, if there are labels, y, as "
            f"np.savez(path, x=x, y=y) writes it; got {path}. Other data: TeacherCache.build."
        )
    x, y = inputs.read_npz(path)
    return (x,) if y is None else (x, y)


def stopped_words(directory: Path, context: Any) -> str:
    """What an interrupted build leaves behind, and the command that goes on."""
    try:
        info = cache.info(directory)
        left = f"{info.shards_whole} of {info.shards or '?'} shards are whole in {directory}."
    except (OSError, ValueError):
        left = "Nothing was finished yet."
    return f"{left}\nGo on with: {shlex.join(arguments.words(context))}"


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What the cache refuses is a wrong usage of the command; its lists keep their lines."""
    try:
        yield
    except UsageError:
        raise
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise UsageError(str(error) or inputs.one_line(error)) from error
    except tf.errors.OpError as error:
        raise UsageError(inputs.one_line(error)) from error

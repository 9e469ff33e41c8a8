"""Candidates before the data: made ready, heard, and let go where they end their process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_distill.data import batches
from keras_distill.judging.candidates import Candidate, candidate_of, read, task_of
from keras_distill.judging.conditions import Condition
from keras_distill.judging.context import Context
from keras_distill.judging.record import CLEAN
from keras_distill.litert.child import CrashError
from keras_distill.measures.metric import NUMBERS, Answered
from keras_distill.progress import bar

__all__ = ["Court"]


class Court:
    """The candidates, made ready, and their answers to data under a condition.

    Args:
      candidates, data, baseline, task, output, batch_size: see `judge`.

    Attributes:
      context: what is known of them.
      labelled: whether the data have labels.
      failed: by name why a file could not be judged.
      data_sha256: of the data as they are, once they were heard.

    Raises:
      TypeError, ValueError: see `judge`.
    """

    def __init__(
        self,
        candidates: Mapping[str, Any],
        data: Any,
        baseline: str,
        task: str,
        output: str | None,
        batch_size: int,
    ):
        self.failed: dict[str, str] = {}
        self.data_sha256 = ""
        self._baseline = baseline
        self._candidates: dict[str, Candidate] = {}
        x, y, _ = next(iter(batches(data, batch_size)))
        self.labelled = y is not None
        like = next((one for one in candidates.values() if isinstance(one, keras.Model)), None)
        said = {}
        for name, thing in candidates.items():
            try:
                self._candidates[name] = candidate_of(name, thing, x, like)
                said[name] = self._candidates[name].say(x, output)
            except CrashError as error:
                self._lose(name, error)
        shapes = {name: one.values.shape for name, one in said.items()}
        if len(set(shapes.values())) > 1:
            words = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(
                f"Expected candidates that answer alike; to the first batch they answer with "
                f"arrays of {words}."
            )
        shape = shapes[baseline]
        kinds = {one.kind for one in said.values()}
        names = tuple(map(str, self._candidates[baseline].outputs(x)))
        own = None if y is None or len(names) > 1 else np.asarray(y)
        found = task_of(kinds, shape, own) if task == "auto" else task
        self.context = Context(self._candidates, found, output, names, shape[1:], batch_size)
        if y is not None:
            self.context.read_labels(y, shape[0])

    def heard(
        self, condition: Condition, data: Any, verbose: bool, title: str = ""
    ) -> dict[str, Answered]:
        """Every candidate's answers, beside the labels; of one that crashed none any more."""
        answers: dict[str, list[np.ndarray]] = {name: [] for name in self._candidates}
        labels: list[np.ndarray] = []
        source = ((x, y) for x, y, _ in batches(data, self.context.batch_size))
        digest = hashlib.sha256()
        with bar(title or condition.label, _length(data), verbose) as advance:
            for x, y in condition.batches(source, self.context):
                for name, said in self._said(x):
                    answers[name].append(said)
                rows = len(keras.tree.flatten(x)[0])
                labels.append(self._labels(y, rows, answers))
                for leaf in keras.tree.flatten((x, [] if y is None else y)):
                    digest.update(_content(leaf))
                advance(rows)
        if condition.label == CLEAN and not self.data_sha256:
            self.data_sha256 = digest.hexdigest()
        truth = np.concatenate(labels)
        return {
            name: Answered(self.context.task, np.concatenate(answers[name]), truth)
            for name in self._candidates
        }

    def _said(self, x: Any) -> Iterator[tuple[str, np.ndarray]]:
        for name, candidate in list(self._candidates.items()):
            try:
                said = candidate.say(x, self.context.output)
            except CrashError as error:
                self._lose(name, error)
                continue
            values = read(said, self.context.task)
            if np.isnan(values).any():
                raise ValueError(f"{name!r} answers NaN: it can't be judged.")
            yield name, values

    def _lose(self, name: str, error: CrashError) -> None:
        if name == self._baseline:
            raise ValueError(
                f"The baseline {name!r} ended the process that ran it, and nothing can be compared "
                f"with it: {error} Name another: baseline=."
            ) from error
        self.failed[name] = str(error)
        self._candidates.pop(name, None)

    def _labels(self, y: Any, rows: int, answers: Mapping[str, list[np.ndarray]]) -> np.ndarray:
        if y is not None:
            return self.context.read_labels(y, rows)
        said = answers[self._baseline][-1]
        if self.context.task == NUMBERS:
            return said
        return Answered(self.context.task, said, said).choices.astype("int64")


def _content(leaf: Any) -> bytes:
    array = np.asarray(leaf)
    if array.dtype.kind in "OUS":
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).tobytes()


def _length(data: Any) -> int | None:
    leaf = keras.tree.flatten(data)[0]
    return len(leaf) if isinstance(leaf, np.ndarray) else None

"""What a student learned of its teacher: a record that prints, draws and saves itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_distill._records import Record, Table
from keras_distill.explaining import folder as files
from keras_distill.explaining import words
from keras_distill.explaining.record import Comparison


@dataclass(frozen=True, eq=False)
class Explanation(Comparison, Record):
    """A student beside its teacher on the same data; printed as tables.

    Attributes:
      examples: how many were compared.
      labelled: how many of them have a label.
      class_names: in the order of the models' outputs.
      agreement: `(classes, classes)` counts: the teacher's answer by row, the student's by column.
      kl_nats: mean divergence of the student's answers from the teacher's.
      teacher, student: `ModelAnswers` of each.
      classes: a `ClassChange` a class; empty without labels.
      similarity: of pairs of layers; None where none were compared.
      no_similarity: why there is none, in words; else empty.
      lost: the examples where the student lost the most, the worst first.
    """

    def parts(self) -> Iterator[str | Table]:
        """Both models, the classes that changed most, the layer map, the worst examples."""
        return words.parts(self)

    def figures(self) -> dict[str, Any]:
        """The pictures, matplotlib figures by name: what of these the record has data for.

        "agreement", "classes", "calibration", "similarity", and "lost" where inputs are images.

        Raises:
          ModuleNotFoundError: matplotlib is missing, which the extra "demo" brings.
        """
        with files.asking_for_matplotlib():
            from keras_distill.explaining.pictures import draw
        return draw(self)

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write `explanation.json` and a .png of each picture; those of an earlier save go.

        Args:
          folder: made where it does not exist.

        Returns:
          The files.

        Raises:
          ModuleNotFoundError: matplotlib is missing; nothing is written.
          NotADirectoryError: `folder` is a file.
          FileExistsError: files of these names are there that no save has written; they stay, and
            nothing is written.
        """
        return files.save(folder, self.to_json(), self.figures())

"""Which layers can do with 4 bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_distill._records import Record, Table, pairs
from keras_distill.edge.search.chain import Option, chain
from keras_distill.edge.search.files import TrialFiles
from keras_distill.edge.search.measured import Measured
from keras_distill.edge.search.sensitivity import Sensitivity, measure

__all__ = ["BitSearch", "search_bits"]


@dataclass(frozen=True)
class BitSearch(Record):
    """The bits that were chosen, and what they cost.

    Attributes:
      weight_bits: by layer, for `quantize_aware(model, weight_bits=)`: those of 4 bits.
      bytes, bytes_at_8: of the file as it is, and with all layers at 8 bits.
      drop, drop_at_8: what is lost on the data before any training, 0.01 being one point: accuracy
        where it has labels, else agreement with the reference's classes, else correlation.
      divergence: from the reference, as in `sensitivity`.
      sensitivity: what each layer costs alone.
    """

    weight_bits: dict[str, int]
    bytes: int
    bytes_at_8: int
    drop: float
    drop_at_8: float
    divergence: float
    sensitivity: Sensitivity

    def parts(self) -> Iterator[str | Table]:
        """The choice, its price, and the layers."""
        layers = ", ".join(self.weight_bits) or "none"
        yield pairs(
            {
                "4 bits": layers,
                "bytes": f"{self.bytes:,} ({self.bytes_at_8:,} with all layers at 8 bits)",
                "drop": f"{100 * self.drop:+.2f} points ({100 * self.drop_at_8:+.2f} at 8 bits)",
                "divergence": f"{self.divergence:.2e}",
            }
        )
        yield from self.sensitivity.parts()


def search_bits(
    model: keras.Model,
    data: Any,
    *,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    teacher: Any = None,
    output: Any = "auto",
    show_progress: bool = True,
) -> BitSearch:
    """Chooses 4 or 8 bits for each layer's weights: a file that fits, or the smallest right one.

    Layers go to 4 bits in the order of what a saved byte costs: the divergence that 4 bits add
    beyond 8, over half the layer's weights. `max_bytes` takes the most bits whose file fits, with
    `max_drop` besides the most that keep both; `max_drop` alone the fewest that keep it, each
    choice measured with all its layers together. A layer that is no worse at 4 bits than at 8 has
    4. Activations have 8 bits. What is lost is lost before training: go on with
    `quantize_aware(model, weight_bits=found.weight_bits)`, in a Distiller at best.

    Args:
      model: a built Functional or Sequential model of Keras 3 in float. It is not changed.
      data: some hundred rows, with labels or without; any data argument. They set the ranges, too.
      max_bytes: the largest int8 file. One is written to a temporary folder and counted.
      max_drop: what may be lost, 0.01 being one point: see `BitSearch.drop`.
      teacher, output: as in `sensitivity`.
      show_progress: a bar over the layers.

    Returns:
      A `BitSearch`.

    Raises:
      ValueError: neither bound is given; no choice keeps them: the nearest is named.
      TypeError, ValueError: as `quantize_aware`, `calibrate` and `sensitivity`.

    Example:
      found = search_bits(student, (x_val, y_val), max_bytes=60_000)
      small = quantize_aware(student, calibration_data=x, weight_bits=found.weight_bits)
    """
    _check_bounds(max_bytes, max_drop)
    measured = Measured(model, data, teacher, output)
    found = measure(measured, show_progress)
    with TrialFiles(measured.model, data) as files:
        search = _Search(measured, files, chain(_options(found)))
        chosen = search.chosen(max_bytes, max_drop)
        return BitSearch(
            weight_bits={path: number for path, number in chosen.items() if number != 8},
            bytes=files.bytes(chosen),
            bytes_at_8=files.bytes({}),
            drop=search.drop(chosen),
            drop_at_8=search.drop({}),
            divergence=measured.divergence(search.answers(chosen)),
            sensitivity=found,
        )


def _check_bounds(max_bytes: Any, max_drop: Any) -> None:
    if max_bytes is None and max_drop is None:
        raise ValueError("Expected max_bytes or max_drop, or both: how small, or how right.")
    if max_bytes is not None and (isinstance(max_bytes, bool) or max_bytes <= 0):
        raise ValueError(f"Expected max_bytes of 1 or more; got {max_bytes!r}.")
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise ValueError(f"Expected max_drop from 0 to 1, 0.01 being one point; got {max_drop!r}.")


def _options(found: Sensitivity) -> dict[str, list[Option]]:
    """What each layer that can have 4 bits may have, in bytes."""
    return {
        row.path: [Option(4, row.weights / 2, row.at_4), Option(8, row.weights, row.at_8)]
        for row in found.rows
        if row.at_4 is not None and row.weights > 1
    }


class _Search:
    """Choices from the smallest file to the best: what they lose, and which of them fit."""

    def __init__(self, measured: Measured, files: TrialFiles, choices: list[dict[str, int]]):
        self.choices = choices
        self._measured, self._files = measured, files
        self._drops: dict[frozenset[tuple[str, int]], float] = {}

    def answers(self, choice: Mapping[str, int]) -> Any:
        """The outputs for all rows."""
        paths = self._measured.rounded.paths
        return self._measured.answers({path: (choice.get(path, 8), 8) for path in paths})

    def drop(self, choice: Mapping[str, int]) -> float:
        """What a choice loses beside the float model."""
        key = frozenset((path, number) for path, number in choice.items() if number != 8)
        if key not in self._drops:
            self._drops[key] = self._measured.drop(self.answers(choice))
        return self._drops[key]

    def chosen(self, max_bytes: int | None, max_drop: float | None) -> dict[str, int]:
        """The choice that keeps the bounds."""
        last = len(self.choices) - 1 if max_bytes is None else self._last_that_fits(max_bytes)
        if max_drop is None:
            return self.choices[last]
        # More bits may lose more, by chance: every choice is asked.
        right = [n for n, one in enumerate(self.choices) if self.drop(one) <= max_drop]
        if not right:
            raise ValueError(
                f"No choice of 4 and 8 bits loses {max_drop} at most before any training: the "
                f"least is {min(map(self.drop, self.choices)):.4f}, and with all layers at 8 bits "
                f"{self.drop({}):.4f}. Train with quantize_aware, or leave layers out by skip: "
                f"sensitivity(model, data) names them."
            )
        if max_bytes is None:
            return self.choices[right[0]]
        both = [number for number in right if number <= last]
        if not both:
            least = min(map(self.drop, self.choices[: last + 1]))
            raise ValueError(
                f"No choice of 4 and 8 bits keeps both max_bytes={max_bytes:,} and "
                f"max_drop={max_drop}. The smallest file within the drop has "
                f"{self._files.bytes(self.choices[right[0]]):,} bytes; the least drop of a file "
                f"that fits is {least:.4f}, before any training."
            )
        return self.choices[both[-1]]

    def _last_that_fits(self, most: int) -> int:
        """The best choice whose file fits, by the files themselves, from an estimate on."""
        kernels = self._measured.rounded.kernels
        whole = self._files.bytes({})
        sizes = [
            whole - sum(sum(kernels[path]) // 2 for path, number in one.items() if number == 4)
            for one in self.choices
        ]
        number = max([n for n, size in enumerate(sizes) if size <= most], default=0)
        while number and self._files.bytes(self.choices[number]) > most:
            number -= 1
        if (least := self._files.bytes(self.choices[number])) > most:
            raise ValueError(
                f"No choice of 4 and 8 bits gives a file of {most:,} bytes: the smallest has "
                f"{least:,}. Take fewer weights (kd.transfer.shrink)."
            )
        while number + 1 < len(self.choices):
            if self._files.bytes(self.choices[number + 1]) > most:
                break
            number += 1
        return number

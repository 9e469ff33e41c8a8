"""Choices of bits for all layers, from the smallest file to the best, and which keep the bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_distill.edge.quantize.weights import FLOAT
from keras_distill.edge.search.bounds import Bounds
from keras_distill.edge.search.files import TrialFiles
from keras_distill.edge.search.latency import InTurns
from keras_distill.edge.search.measured import Measured
from keras_distill.progress import bar

__all__ = ["Choices", "check_reachable"]


def check_reachable(files: TrialFiles, smallest: Mapping[str, int], bounds: Bounds) -> None:
    """Refuses a size that no file has, before anything is measured."""
    most = bounds.max_bytes
    if most is not None and (least := files.bytes(smallest)) > most:
        raise ValueError(
            f"No choice of bits gives a file of {most:,} bytes: the smallest has {least:,}. Take "
            f"fewer weights (kd.transfer.shrink)."
        )


class Choices:
    """Some choices of bits: what they lose, and which of them keep the bounds.

    Args:
      choices: bits by layer, from the smallest file to the best.
      measured, files: of the same model and data.
      show_progress: a bar over the files that are timed.
    """

    def __init__(
        self,
        choices: Sequence[dict[str, int]],
        measured: Measured,
        files: TrialFiles,
        show_progress: bool,
    ):
        self._choices, self._measured, self._files = choices, measured, files
        self._show_progress = show_progress
        self._drops: dict[frozenset[tuple[str, int]], float] = {}
        self._timed: InTurns | None = None

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

    def milliseconds(self, choice: Mapping[str, int]) -> float:
        """How long the file of a choice runs, timed in turns with that of 8 bits."""
        if self._timed is None:
            self._timed = InTurns(self._files.path({}))
        return self._timed.milliseconds(self._files.path(choice))

    def chosen(self, bounds: Bounds) -> dict[str, int]:
        """The choice that keeps the bounds.

        Raises:
          ValueError: none does; the nearest is named.
        """
        order = self._within_size_and_drop(bounds)
        if bounds.max_milliseconds is None:
            return self._choices[order[0]]
        return self._fast_enough(order, bounds)

    def _within_size_and_drop(self, bounds: Bounds) -> list[int]:
        """The numbers of the choices that keep both, the one to be taken first."""
        count, most, lost = len(self._choices), bounds.max_bytes, bounds.max_drop
        fitting = range(count if most is None else self._last_that_fits(most) + 1)
        if lost is None:
            return list(reversed(fitting))
        # More bits may lose more, by chance: every choice is asked.
        right = [number for number, one in enumerate(self._choices) if self.drop(one) <= lost]
        if not right:
            raise ValueError(
                f"No choice of bits loses {lost} at most before any training: the least is "
                f"{min(map(self.drop, self._choices)):.4f}, and with all layers at 8 bits "
                f"{self.drop({}):.4f}. Train with quantize_aware; or leave layers in float: "
                f"bits=(4, 8, {FLOAT}), or by skip; or have activations of 16 bits in the whole "
                f"file: export_tflite(model, path, precision='int16x8', representative_data=x)."
            )
        both = [number for number in right if number in fitting]
        if not both:
            least = min(self.drop(self._choices[number]) for number in fitting)
            raise ValueError(
                f"No choice of bits keeps both max_bytes={most:,} and max_drop={lost}. The "
                f"smallest file within the drop has "
                f"{self._files.bytes(self._choices[right[0]]):,} bytes; the least drop of a file "
                f"that fits is {least:.4f}, before any training."
            )
        return both if most is None else both[::-1]

    def _last_that_fits(self, most: int) -> int:
        """The best choice whose file fits, by the files themselves, from an estimate on."""
        weights = {path: sum(some) for path, some in self._measured.rounded.kernels.items()}
        # In bytes beside those at 8 bits.
        more = {4: -0.5, 8: 0.0, FLOAT: 3.0}
        whole = self._files.bytes({})
        sizes = [
            whole + sum(more[number] * weights[path] for path, number in one.items())
            for one in self._choices
        ]
        number = max([n for n, size in enumerate(sizes) if size <= most], default=0)
        while number and self._files.bytes(self._choices[number]) > most:
            number -= 1
        while number + 1 < len(self._choices):
            if self._files.bytes(self._choices[number + 1]) > most:
                break
            number += 1
        return number

    def _fast_enough(self, order: Sequence[int], bounds: Bounds) -> dict[str, int]:
        """The first of some choices whose file is fast enough: fewer bits need not be faster."""
        longest, found = bounds.max_milliseconds or 0.0, []
        with bar("Latency", len(order), self._show_progress) as advance:
            for number in order:
                found.append(self.milliseconds(self._choices[number]))
                advance(1)
                if found[-1] <= longest:
                    return self._choices[number]
        fastest = order[found.index(min(found))]
        others = [
            f"{name}={value}"
            for name, value in (("max_bytes", bounds.max_bytes), ("max_drop", bounds.max_drop))
            if value is not None
        ]
        raise ValueError(
            f"No choice of bits{' within ' + ' and '.join(others) if others else ''} runs in "
            f"{longest} ms on this machine: the fastest takes {min(found):.4f} ms, with "
            f"{self._files.bytes(self._choices[fastest]):,} bytes, and all layers at 8 bits "
            f"{self.milliseconds({}):.4f} ms. Take fewer weights (kd.transfer.shrink)."
        )

"""What the examples have in common: a quiet terminal, their options, a table, a picture.

An example imports this before keras: TensorFlow, which speaks of the machine as it loads, is quiet
then. `KERAS_DISTILL_LOGS=1` lets it speak.
"""

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras_distill_cli

keras_distill_cli.quieten()

import keras
import numpy as np
import tensorflow as tf


def arguments(description: str, seeds: int, **more: str) -> argparse.Namespace:
    """`--smoke`, `--seeds` and `--output`, and by name the help of an example's own options."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--smoke", action="store_true", help="to see that it runs; figures mean nothing"
    )
    parser.add_argument("--seeds", type=int, help=f"{seeds} by default, 1 for --smoke")
    parser.add_argument("--output", type=Path, help="keep the files and the picture in this folder")
    for name, words in more.items():
        parser.add_argument(f"--{name}", help=words)
    args = parser.parse_args()
    args.seeds = args.seeds or (1 if args.smoke else seeds)
    return args


@contextlib.contextmanager
def in_folder(path: Path | None) -> Iterator[Path]:
    """The folder that was named, or one that is gone afterwards."""
    if path is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
    else:
        path.mkdir(parents=True, exist_ok=True)
        yield path


def table(found: list[dict[str, dict[str, float]]], baseline: str, better: dict[str, int]) -> str:
    """Mean ± sample standard deviation over the seeds, and the paired difference from a baseline.

    Args:
      found: of each seed, each model's measures.
      baseline: the model that the others are compared with.
      better: by measure 1 where more is better, -1 where less is.

    A difference is in bold where it is beyond the spread: |mean| > 2 sd / sqrt(n).
    """
    lines = [
        f"| {len(found)} seed{'s' * (len(found) > 1)} | " + " | ".join(better) + " |",
        "| --- |" + " ---: |" * len(better),
    ]
    for model in found[0]:
        cells = [
            _cell([one[model][key] for one in found], [one[baseline][key] for one in found], sign)
            if model != baseline
            else _spread([one[model][key] for one in found])
            for key, sign in better.items()
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def _cell(values: list[float], others: list[float], sign: int) -> str:
    differences = [a - b for a, b in zip(values, others, strict=True)]
    mean = statistics.mean(differences)
    deviation = statistics.stdev(differences) if len(differences) > 1 else float("inf")
    words = f"{mean:+.3f}"
    if abs(mean) > 2 * deviation / len(differences) ** 0.5:
        words = f"**{words} {'gain' if sign * mean > 0 else 'LOSS'}**"
    return f"{_spread(values)} ({words})"


def draw(found: list[dict[str, dict[str, float]]], key: str, path: Path, label: str) -> None:
    """Each model's measure, a dot a seed and a line at the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.7 + 0.5 * len(found[0])), layout="constrained")
    axes = figure.subplots()
    for place, model in enumerate(found[0]):
        values = [one[model][key] for one in found]
        axes.plot(values, [place] * len(values), "o", alpha=0.6)
        axes.plot([statistics.mean(values)] * 2, [place - 0.3, place + 0.3], color="black")
    axes.set_yticks(range(len(found[0])), list(found[0]))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    figure.savefig(path, dpi=120)


def some_labels(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The labels of this share of each class, at least one; -1, that is none, for the others."""
    random, kept = np.random.default_rng(seed), np.full(len(labels), -1, "int32")
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        kept[rows[: max(1, round(share * len(rows)))]] = label
    return kept


def shuffled(x: Any, y: Any, batch: int, seed: int = 0) -> tf.data.Dataset:
    """Batches for ever, all examples once before any comes again."""
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y), seed=seed)
    return data.repeat().batch(batch).prefetch(2)


def trained(model: keras.Model, batches: tf.data.Dataset, steps: int, rate: float) -> None:
    """So many updates of Adam on classes, the rate falling along a cosine."""
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(falling), loss)
    model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)


def judged(logits: Any, labels: np.ndarray) -> dict[str, float]:
    """Accuracy in %, and the cross-entropy in nats."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {
        "accuracy": float(100 * np.mean(np.argmax(logits, -1) == labels)),
        "cross-entropy": float(loss(labels, logits)),
    }

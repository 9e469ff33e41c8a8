"""Does distillation make a student more robust? Twin, student and int8 file, under all conditions.

    python benchmarks/robustness.py --work DIR      about an hour and a half of one core
    python benchmarks/robustness.py --table         the table from the JSON
    python benchmarks/robustness.py --smoke         tiny, another JSON

`DIR` holds the teachers and caches of gains.py, whose students these are: ResNet8 on CIFAR-10 with
all labels for six epochs, a quarter of gains.py's, and the DS-CNN on spoken digits with a tenth of
the labels, each from the same first weights, by as many updates as its twin, at the rate that
gains.py chose on validation data. Of the test images the first 2,000 are judged. Recordings are
damaged before the front end, as a microphone would. PGD attacks each model that has gradients by
itself ("white box") and all with what misleads the twin ("transferred").

Kill it whenever you like: what is finished stands in the JSON, and finished students in `DIR`. Two
tracks may run beside each other.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import gains
import keras
import numpy as np

import keras_distill as kd
from keras_distill import judging

SEEDS, TEST = 3, 2000
RESULTS = Path(__file__).parent / "results"
JOBS = {
    "cifar10": {"share": 1, "size": "ResNet8", "epochs": 6},
    "spoken_digits": {"share": gains.TENTH, "size": "DS-CNN", "epochs": None},
}
RATES = {("cifar10", gains.LABELS): 1e-2, ("cifar10", gains.RATED): 1e-2}
RATE = 3e-3
EPSILON = {"cifar10": 2 / 255, "spoken_digits": 0.02}
LIMITS = {"cifar10": (0.0, 1.0), "spoken_digits": (-1.0, 1.0)}


class Heard(judging.Condition):
    """A recording is damaged before its spectrogram is made.

    Args:
      corruption: of recordings.
      sounds: those of the test, in the data's order.
    """

    def __init__(self, corruption: judging.Corruption, sounds: np.ndarray):
        self._corruption, self._sounds = corruption, sounds
        self.severity = corruption.severity

    @property
    def label(self) -> str:
        return self._corruption.label

    def batches(self, source: Iterator[Any], context: Any) -> Iterator[Any]:
        begin = 0
        labels = [(len(y), y) for _, y in source]
        pieces = []
        for rows, y in labels:
            pieces.append((self._sounds[begin : begin + rows], y))
            begin += rows
        for sounds, y in self._corruption.batches(iter(pieces), context):
            yield gains.spectrograms(sounds), y


def conditions(track: str, smoke: bool) -> list[judging.Condition]:
    if track == "cifar10":
        found: list[judging.Condition] = list(judging.image_corruptions(range=(0, 1)))
    else:
        heard = kd.data.load_spoken_digits().of(5)
        sounds = np.stack(
            [gains.said(s[:n], None) for s, n in zip(heard.samples, heard.lengths, strict=True)]
        )
        found = [Heard(one, sounds) for one in judging.signal_corruptions()]
    attack = {"range": LIMITS[track], "source": "twin"}
    found.append(judging.PGD(EPSILON[track], **attack))
    return found[-6:] if smoke else found


def judged(track: str, seed: int, smoke: bool, work: Path) -> dict[str, Any]:
    """Of each model the accuracy under each condition, and the mean corruption error."""
    data, job = gains.splits_of(track, smoke), JOBS[track]
    if not (gains.cache_folder(track, work, "logits", "") / "manifest.json").exists():
        gains.cache_of(track, smoke, work, "logits")
    students = {}
    for name, method in (("twin", gains.LABELS), ("distilled", gains.RATED)):
        one = gains.Job(track, job["share"], job["size"], method, seed, epochs=job["epochs"])
        kept = work / f"robust_{track}{seed}_{name}{'_smoke' if smoke else ''}.keras"
        if not kept.exists():
            rate = RATES.get((track, method), RATE)
            student = gains.trained(one, rate, smoke, work)
            student.save(kept.with_suffix(".new.keras"))
            kept.with_suffix(".new.keras").replace(kept)
        students[name] = keras.saving.load_model(kept)
    path = work / f"robust_{track}{seed}.tflite"
    calibration = data.x_train[:: max(1, len(data.x_train) // 200)]
    small = kd.edge.quantize_aware(students["distilled"], calibration_data=calibration)
    candidates = {**students, "int8": kd.edge.export_tflite(small, path, precision="int8")}
    test = data.x_test[:TEST], data.y_test[:TEST]
    record = kd.judge(
        candidates, test, metrics=["accuracy", "ECE"], conditions=conditions(track, smoke),
        resamples=200, verbose=False,
    )  # fmt: skip
    found: dict[str, Any] = {
        name: {c: record.figure(name, "accuracy", c).value for c in record.conditions}
        for name in record.models
    }
    for name, model in students.items():
        white = judging.PGD(EPSILON[track], range=LIMITS[track])
        alone = kd.judge({name: model}, test, conditions=[white], resamples=2, verbose=False)
        found[name]["white box"] = alone.figure(name, "accuracy", white.label).value
    for name in found:
        found[name]["ECE"] = record.figure(name, "ECE").value
    return found


def kinds(track: str, row: dict[str, float]) -> dict[str, list[float]]:
    """Accuracies by kind of damage, over its severities."""
    found: dict[str, list[float]] = {}
    for label, value in row.items():
        kind = "PGD, transferred" if label.startswith("PGD") else label.rstrip("12345 ")
        found.setdefault(kind, []).append(value)
    return found


def table(stored: dict[str, Any]) -> str:
    """Mean accuracy over severities, and paired differences from the twin over seeds."""
    parts = [_common.host_line(stored["host"])]
    for track in JOBS:
        rows = [stored["rows"][key] for key in sorted(stored["rows"]) if key.startswith(track)]
        if not rows:
            continue
        lines = []
        for kind in kinds(track, rows[0]["twin"]):
            values = {
                name: [
                    100 * statistics.mean(kinds(track, row[name]).get(kind, [np.nan]))
                    for row in rows
                ]
                for name in rows[0]
            }
            cells = [f"{statistics.mean(values['twin']):.2f}"]
            for name in ("distilled", "int8"):
                apart = [a - b for a, b in zip(values[name], values["twin"], strict=True)]
                cells.append(_difference(values[name], apart))
            lines.append((kind, *cells))
        job = JOBS[track]
        words = f"{track}, {job['size']}, {job['share']:.0%} of the labels, {len(rows)} seeds"
        parts.append(_common.markdown((words, "labels alone", "distilled", "its int8 file"), lines))
    return "\n\n".join(parts)


def mean_of(values: list[float]) -> float:
    return statistics.mean(values) if values else float("nan")


def _difference(values: list[float], apart: list[float]) -> str:
    if np.isnan(values).any():
        return "-"
    mean = statistics.mean(apart)
    deviation = statistics.stdev(apart) if len(apart) > 1 else float("inf")
    words = f"{mean:+.2f} ± {deviation:.2f}"
    if abs(mean) > 2 * deviation / len(apart) ** 0.5:
        words = f"**{words}**"
    return f"{statistics.mean(values):.2f} ({words})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "keras_distill_gains")
    parser.add_argument("--track", choices=list(JOBS))
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    output = RESULTS / ("robustness_smoke.json" if args.smoke else "robustness.json")
    stored = _common.read_json(output) if output.exists() else {"rows": {}}
    if not args.table:
        stored["host"] = _common.host()
        for seed in range(1 if args.smoke else SEEDS):
            for track in [args.track] if args.track else list(JOBS):
                key = f"{track}/{seed}"
                if key not in stored["rows"]:
                    keras.backend.clear_session()
                    row = judged(track, seed, args.smoke, args.work)
                    # Another track may have been written meanwhile.
                    stored = _common.read_json(output) | {"host": _common.host()}
                    stored.setdefault("rows", {})[key] = row
                    _common.write_json(output, stored)
                    print(key, flush=True)
    print(table(stored))


if __name__ == "__main__":
    main()

"""Searched bits beside uniform int8: how many bytes they save at equal accuracy.

    python benchmarks/search.py --models DIR           what is not there yet
    python benchmarks/search.py --only student         one network
    python benchmarks/search.py --smoke --models DIR   tiny, another JSON
    python benchmarks/search.py --table                the table, from the JSON

The float networks are MLPerf Tiny's keyword_dscnn and image_resnet (from --models, as
mlperf_tiny.py has them) and the student and the depthwise network that four_bits.py trains on
Fashion-MNIST. All files get the same 500 training rows to calibrate on and to learn their rounding
from, drawn by the seed.

"searched": `search_bits` on a thousand validation rows with one of DROPS after the other as its
`max_drop`, from the smallest file on. What it allows is lost before any repair, so each choice is
reconstructed. The first whose file is not below the better int8 file on all validation rows is
taken; if there is none, the one that is best there. Test rows judge that file alone.

Accuracy is that of the file. The keyword network hears digits, none of its words: there it is the
share of rows with the float network's class; 500 rows calibrate, 1,000 validate, 1,500 test. Of
image_resnet the validation images are among those that it was trained on.
"""

import argparse
import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import four_bits
import keras
import mlperf_tiny
import numpy as np

import keras_distill as kd

SEEDS, SEARCHED_ON = 3, 1000
DROPS = (1.0, 0.3, 0.1, 0.05, 0.03, 0.02, 0.015, 0.01, 0.006, 0.003)
FLOAT, CALIBRATED, RECONSTRUCTED = "float", "int8, calibrated", "int8, reconstructed"
FOUR, SEARCHED = "all at 4 bits, reconstructed", "searched, reconstructed"
NETWORKS = ("keyword_dscnn", "student", "depthwise", "image_resnet")


# --- networks -----------------------------------------------------------------------------------


def network(name: str, args: argparse.Namespace) -> tuple[keras.Model, kd.data.ImageSplits]:
    if name != "keyword_dscnn":
        data = four_bits.NETWORKS[name].load()
        data = four_bits.less(data) if args.smoke else data
        return four_bits.float_model(name, data, args), data
    if args.models is None:
        raise SystemExit("keyword_dscnn: --models DIR names the folder of its SavedModel")
    model = kd.load_model(args.models / "keyword_dscnn_savedmodel")
    x = mlperf_tiny.keywords(2500)
    said = model.predict(x, verbose=0).argmax(-1)
    cuts = [mlperf_tiny.CALIBRATION, mlperf_tiny.CALIBRATION + 1000]
    columns = zip(np.split(x, cuts), np.split(said, cuts), strict=True)
    parts = [part for column in columns for part in column]
    data = kd.data.ImageSplits(name, *parts, class_names=tuple(map(str, range(12))))
    return model, four_bits.less(data) if args.smoke else data


# --- files --------------------------------------------------------------------------------------


def hits(path: Path, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return kd.edge.load_tflite(path).predict(x).argmax(-1) == y


def file_of(case: four_bits.Case, row: str) -> Path:
    return case.folder / f"{case.data.name}_{case.seed}_{row}.tflite".replace(", ", "_").replace(
        " ", "_"
    )


def quantized(case: four_bits.Case, bits: int | dict[str, int], repaired: bool) -> keras.Model:
    keras.utils.set_random_seed(case.seed)
    small = kd.edge.quantize_aware(case.model, calibration_data=case.rows, weight_bits=bits)
    return kd.edge.reconstruct(small, data=case.rows, verbose=False) if repaired else small


def written(
    case: four_bits.Case, path: Path, bits: int | dict[str, int], repaired: bool
) -> dict[str, Any]:
    """An int8 file, its bytes and what it gets right of the validation rows."""
    small = quantized(case, bits, repaired)
    kd.edge.export_tflite(small, path, precision="int8", input_type="int8")
    right = hits(path, case.data.x_validation, case.data.y_validation).mean()
    return {"bytes": path.stat().st_size, "validation": float(right)}


def uniform(case: four_bits.Case, path: Path, *, bits: int, repaired: bool) -> dict[str, Any]:
    return written(case, path, bits, repaired)


def in_float(case: four_bits.Case, path: Path) -> dict[str, Any]:
    kd.edge.export_tflite(case.model, path, precision="float32")
    return {"bytes": path.stat().st_size}


def searched(case: four_bits.Case, path: Path) -> dict[str, Any]:
    """The smallest file that is as right as int8 on the validation rows, of all that were tried."""
    data = case.data
    asked = data.x_validation[:SEARCHED_ON], data.y_validation[:SEARCHED_ON]
    wanted = max(
        hits(file_of(case, row), data.x_validation, data.y_validation).mean()
        for row in (CALIBRATED, RECONSTRUCTED)
    )
    tried: list[dict[str, Any]] = []
    for drop in DROPS:
        try:
            found = kd.edge.search_bits(case.model, asked, max_drop=drop, show_progress=False)
        except ValueError as error:
            # Smaller ones do not either.
            print(f"  max_drop={drop}: {error}", flush=True)
            break
        if any(one["weight_bits"] == found.weight_bits for one in tried):
            continue
        trial = path.with_name(f"{path.stem}_{len(tried)}.tflite")
        one = {"max_drop": drop, "weight_bits": found.weight_bits, "file": trial.name}
        tried.append(one | written(case, trial, found.weight_bits, True))
        print(f"  max_drop={drop}: {len(found.weight_bits)} layers, {tried[-1]}", flush=True)
        if tried[-1]["validation"] >= wanted:
            break
    best = max(tried, key=lambda one: one["validation"])
    path.write_bytes(path.with_name(best["file"]).read_bytes())
    kept = bool(best["validation"] >= wanted)
    return best | {"wanted": float(wanted), "kept": kept, "tried": tried}


# In this order: the search asks the files of int8.
ROWS: dict[str, Callable[[four_bits.Case, Path], dict[str, Any]]] = {
    FLOAT: in_float,
    CALIBRATED: functools.partial(uniform, bits=8, repaired=False),
    RECONSTRUCTED: functools.partial(uniform, bits=8, repaired=True),
    FOUR: functools.partial(uniform, bits=4, repaired=True),
    SEARCHED: searched,
}


# --- what is run --------------------------------------------------------------------------------


def judged(case: four_bits.Case, path: Path) -> dict[str, float]:
    """On the test rows, and beside the int8 files there: the error is that of paired rows."""
    x, y = case.data.x_test, case.data.y_test
    found = hits(path, x, y)
    figures = {"accuracy": float(found.mean())}
    for row in (CALIBRATED, RECONSTRUCTED):
        if (other := file_of(case, row)).exists():
            apart = found.astype("float64") - hits(other, x, y)
            figures[f"beside {row}"] = float(apart.mean())
            figures[f"error beside {row}"] = float(apart.std() / np.sqrt(len(y)))
    return figures


def run(name: str, args: argparse.Namespace, stored: dict[str, Any], write: Callable) -> None:
    """The rows of a network that are not there yet."""
    found = stored.setdefault("networks", {}).setdefault(name, {})
    due = [
        (seed, row)
        for seed in range(1 if args.smoke else args.seeds)
        for row in ROWS
        if str(seed) not in found.get(row, {})
    ]
    if not due:
        return
    model, data = network(name, args)
    data = dataclasses.replace(data, name=f"{name}{'_smoke' if args.smoke else ''}")
    for seed, row in due:
        picked = np.random.default_rng(seed).permutation(len(data.x_train))[: four_bits.ROWS]
        rows, known = data.x_train[picked], four_bits.NETWORKS.get(name)
        case = four_bits.Case(known, model, data, rows, seed, args.work)
        if row == SEARCHED:
            for other in (CALIBRATED, RECONSTRUCTED):
                if not (path := file_of(case, other)).exists():
                    ROWS[other](case, path)
        path = file_of(case, row)
        figures = ROWS[row](case, path) | judged(case, path)
        found.setdefault(row, {})[str(seed)] = figures | {"test_rows": len(data.y_test)}
        write()
        print(f"{name}, {row}, seed {seed}: {figures}", flush=True)


def verdict(found: dict[str, Any]) -> str:
    """Of the searched files, each beside the int8 file that is better on the validation rows."""
    beside = []
    for seed, one in found[SEARCHED].items():
        row = max((CALIBRATED, RECONSTRUCTED), key=lambda row: found[row][seed]["validation"])
        saved = 1 - one["bytes"] / found[row][seed]["bytes"]
        beside.append((saved, one[f"beside {row}"], one[f"error beside {row}"]))
    saved, apart, error = np.mean(beside, axis=0)
    if saved <= 0 or apart < -2 * error:
        word = "missed"
    else:
        word = "met" if apart >= 0 else "undecided, below int8 by less than two standard errors"
    told = f"{100 * apart:+.2f} ± {200 * error:.2f} points"
    return f"{word}: {100 * saved:.1f}% fewer bytes than the better int8 file, {told}"


def table(stored: dict[str, Any]) -> str:
    lines, verdicts = [], []
    for name, found in stored["networks"].items():
        for number, row in enumerate(row for row in ROWS if "0" in found.get(row, {})):
            seeds = list(found[row].values())
            mean = {key: np.mean([one[key] for one in seeds]) for key in ("bytes", "accuracy")}
            key = f"beside {RECONSTRUCTED}"
            beside = [(one[key], one[f"error {key}"]) for one in seeds if key in one]
            told = ""
            if row in (FOUR, SEARCHED) and beside:
                apart, error = 100 * np.mean(beside, axis=0)
                told = f"{apart:+.2f} ± {2 * error:.2f}"
            cells = [name if not number else "", row, f"{mean['bytes']:,.0f}"]
            lines.append([*cells, f"{100 * mean['accuracy']:.2f}", told, str(len(seeds))])
        if "0" in found.get(SEARCHED, {}):
            verdicts.append(f"- {name}: {verdict(found)}")
    head = ["network", "file", "bytes", "test, %", f"beside {RECONSTRUCTED}, points", "seeds"]
    parts = [f"{_common.host_line(stored['host'])}.", _common.markdown(head, lines)]
    return "\n\n".join([*parts, "\n".join(verdicts)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="the folder of MLPerf Tiny's networks")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="all by default")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many; 3 by default")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "search_bits")
    parser.add_argument("--smoke", action="store_true", help="tiny, another JSON")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print(table(_common.networks_run("search", args, NETWORKS, run)))


if __name__ == "__main__":
    main()

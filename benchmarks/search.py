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

"QAT with the teacher": the reconstructed network goes on in a Distiller, the float network its
teacher, for as many epochs at 8 bits as with searched ones (TRAINING), Adam with a cosine to zero.
The rate is that which four_bits.py found best on validation images, or its middle one. Bits are
searched as above; the first file is taken that is on the validation rows not below the best of all
three int8 files by more than one standard error of the paired difference (the rule of one standard
error, Breiman et al. 1984), so that chance on these rows does not decide.

Accuracy is that of the file. The keyword network hears digits, none of its words: there it is the
share of rows with the float network's class; 500 rows calibrate, 1,000 validate, 1,500 test. Of
image_resnet the validation images are among those that it was trained on.
"""

import argparse
import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
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
TAUGHT, SEARCHED_TAUGHT = "int8, QAT with the teacher", "searched, QAT with the teacher"
UNIFORM = (CALIBRATED, RECONSTRUCTED, TAUGHT)
# Which int8 files one of fewer bits is chosen and judged beside.
BESIDE = {FOUR: UNIFORM[:2], SEARCHED: UNIFORM[:2], SEARCHED_TAUGHT: UNIFORM}
# Epochs, and the rate: that which four_bits.py found best on validation images, or its middle one.
TRAINING = {
    "keyword_dscnn": (20, 1e-3),
    "student": (3, 3e-3),
    "depthwise": (1, 3e-4),
    "image_resnet": (1, 3e-4),
}
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
    return exported(case, path, quantized(case, bits, repaired))


def exported(case: four_bits.Case, path: Path, small: keras.Model) -> dict[str, Any]:
    kd.edge.export_tflite(small, path, precision="int8", input_type="int8")
    right = hits(path, case.data.x_validation, case.data.y_validation).mean()
    return {"bytes": path.stat().st_size, "validation": float(right)}


def uniform(
    case: four_bits.Case, path: Path, found: dict[str, Any], *, bits: int, repaired: bool
) -> dict[str, Any]:
    return written(case, path, bits, repaired)


def in_float(case: four_bits.Case, path: Path, found: dict[str, Any]) -> dict[str, Any]:
    kd.edge.export_tflite(case.model, path, precision="float32")
    return {"bytes": path.stat().st_size}


def taught(case: four_bits.Case, path: Path, bits: int | dict[str, int]) -> dict[str, Any]:
    """An int8 file of the reconstructed network, trained on under the float one."""
    small = quantized(case, bits, True)
    from_logits = case.network is not None and case.network.from_logits
    epochs, rate = TRAINING[case.data.name.removesuffix("_smoke")]
    tuner = kd.Distiller(small, case.model)
    four_bits.fit(tuner, case.data, rate=rate, epochs=epochs, from_logits=from_logits)
    return exported(case, path, small)


def taught_uniform(case: four_bits.Case, path: Path, found: dict[str, Any]) -> dict[str, Any]:
    return taught(case, path, 8)


def choices(case: four_bits.Case, found: dict[str, Any]) -> Iterator[tuple[float, dict[str, int]]]:
    """What the search takes under one bound of the drop after the other, each choice once.

    The seed is no matter to it: what it took for another is stored.
    """
    data = case.data
    asked = data.x_validation[:SEARCHED_ON], data.y_validation[:SEARCHED_ON]
    known = found.setdefault("choices", [])
    yield from ((drop, bits) for drop, bits in tuple(known))
    seen, ready = [bits for _, bits in known], None
    for drop in DROPS[DROPS.index(known[-1][0]) + 1 if known else 0 :]:
        try:
            took = kd.edge.search_bits(
                case.model, asked, max_drop=drop, sensitivity=ready, show_progress=False
            )
        except ValueError as error:
            # Smaller ones do not either.
            print(f"  max_drop={drop}: {error}", flush=True)
            return
        ready = took.sensitivity
        if took.weight_bits not in seen:
            seen.append(took.weight_bits)
            known.append([drop, took.weight_bits])
            yield drop, took.weight_bits


def first_that_keeps(
    case: four_bits.Case,
    path: Path,
    found: dict[str, Any],
    row: str,
    make: Callable[[Path, dict[str, int]], dict[str, Any]],
    errors: float = 0.0,
) -> dict[str, Any]:
    """The smallest file that is as right as those beside on the validation rows.

    Args:
      row: of `BESIDE`.
      errors: how many standard errors of the paired difference it may be below them.
    """
    x, y = case.data.x_validation, case.data.y_validation
    bar = max((hits(file_of(case, other), x, y) for other in BESIDE[row]), key=np.mean)
    tried: list[dict[str, Any]] = []
    for drop, bits in choices(case, found):
        trial = path.with_name(f"{path.stem}_{len(tried)}.tflite")
        # What an interrupted call has made is not made again.
        if not trial.exists():
            make(trial, bits)
        apart = hits(trial, x, y).astype("float64") - bar
        one = {"max_drop": drop, "weight_bits": bits, "file": trial.name}
        one |= {"bytes": trial.stat().st_size, "validation": float(apart.mean() + bar.mean())}
        one |= {"apart": float(apart.mean()), "error": float(apart.std() / np.sqrt(len(y)))}
        tried.append(one | {"kept": bool(one["apart"] >= -errors * one["error"])})
        print(f"  max_drop={drop}: {len(bits)} layers, {tried[-1]}", flush=True)
        if tried[-1]["kept"]:
            break
    best = tried[-1] if tried[-1]["kept"] else max(tried, key=lambda one: one["validation"])
    path.write_bytes(path.with_name(best["file"]).read_bytes())
    return best | {"wanted": float(bar.mean()), "tried": tried}


def searched(case: four_bits.Case, path: Path, found: dict[str, Any]) -> dict[str, Any]:
    def make(trial: Path, bits: dict[str, int]) -> dict[str, Any]:
        return written(case, trial, bits, True)

    return first_that_keeps(case, path, found, SEARCHED, make)


def searched_taught(case: four_bits.Case, path: Path, found: dict[str, Any]) -> dict[str, Any]:
    def make(trial: Path, bits: dict[str, int]) -> dict[str, Any]:
        return taught(case, trial, bits)

    return first_that_keeps(case, path, found, SEARCHED_TAUGHT, make, errors=1.0)


# In this order: the search asks the files of int8. Each gets what is known of the network.
ROWS: dict[str, Callable[[four_bits.Case, Path, dict[str, Any]], dict[str, Any]]] = {
    FLOAT: in_float,
    CALIBRATED: functools.partial(uniform, bits=8, repaired=False),
    RECONSTRUCTED: functools.partial(uniform, bits=8, repaired=True),
    FOUR: functools.partial(uniform, bits=4, repaired=True),
    SEARCHED: searched,
    TAUGHT: taught_uniform,
    SEARCHED_TAUGHT: searched_taught,
}


# --- what is run --------------------------------------------------------------------------------


def judged(case: four_bits.Case, path: Path) -> dict[str, float]:
    """On the test rows, and beside the int8 files there: the error is that of paired rows."""
    x, y = case.data.x_test, case.data.y_test
    found = hits(path, x, y)
    figures = {"accuracy": float(found.mean())}
    for row in UNIFORM:
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
        if row in (args.row or ROWS) and str(seed) not in found.get(row, {})
    ]
    if not due:
        return
    model, data = network(name, args)
    data = dataclasses.replace(data, name=f"{name}{'_smoke' if args.smoke else ''}")
    for seed, row in due:
        picked = np.random.default_rng(seed).permutation(len(data.x_train))[: four_bits.ROWS]
        rows, known = data.x_train[picked], four_bits.NETWORKS.get(name)
        case = four_bits.Case(known, model, data, rows, seed, args.work)
        for other in BESIDE.get(row, ()):
            if not (path := file_of(case, other)).exists():
                ROWS[other](case, path, found)
        path = file_of(case, row)
        figures = ROWS[row](case, path, found) | judged(case, path)
        found.setdefault(row, {})[str(seed)] = figures | {"test_rows": len(data.y_test)}
        write()
        print(f"{name}, {row}, seed {seed}: {figures}", flush=True)


def beside_uniform(found: dict[str, Any], row: str) -> np.ndarray:
    """Of a searched row, beside the int8 file that is best on the validation rows.

    Returns:
      The share of bytes saved, the paired difference and its error, means over the seeds: all
      seeds have the same test rows, so that they don't make the error smaller.
    """
    beside = []
    for seed, one in found[row].items():
        rows = [other for other in BESIDE[row] if seed in found.get(other, {})]
        best = max(rows, key=lambda other: found[other][seed]["validation"])
        saved = 1 - one["bytes"] / found[best][seed]["bytes"]
        beside.append((saved, one[f"beside {best}"], one[f"error beside {best}"]))
    return np.mean(beside, axis=0)


def verdict(found: dict[str, Any], row: str) -> str:
    saved, apart, error = beside_uniform(found, row)
    word = "missed" if saved <= 0 or apart < -2 * error else "equal within the spread"
    told = f"{100 * apart:+.2f} ± {200 * error:.2f} points"
    return f"{row}: {word}, {100 * saved:.1f}% fewer bytes than the best int8 file, {told}"


def table(stored: dict[str, Any]) -> str:
    lines, verdicts = [], []
    for name, found in stored["networks"].items():
        for number, row in enumerate(row for row in ROWS if "0" in found.get(row, {})):
            seeds = list(found[row].values())
            mean = {key: np.mean([one[key] for one in seeds]) for key in ("bytes", "accuracy")}
            told = ""
            if row in BESIDE:
                _, apart, error = 100 * beside_uniform(found, row)
                told = f"{apart:+.2f} ± {2 * error:.2f}"
            cells = [name if not number else "", row, f"{mean['bytes']:,.0f}"]
            lines.append([*cells, f"{100 * mean['accuracy']:.2f}", told, str(len(seeds))])
        for row in (SEARCHED, SEARCHED_TAUGHT):
            if "0" in found.get(row, {}):
                verdicts.append(f"- {name}, {verdict(found, row)}")
    head = ["network", "file", "bytes", "test, %", "beside the best int8 file, points", "seeds"]
    parts = [f"{_common.host_line(stored['host'])}.", _common.markdown(head, lines)]
    return "\n\n".join([*parts, "\n".join(verdicts)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="the folder of MLPerf Tiny's networks")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="all by default")
    parser.add_argument("--row", choices=list(ROWS), action="append", help="all by default")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many; 3 by default")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "search_bits")
    parser.add_argument("--smoke", action="store_true", help="tiny, another JSON")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print(table(_common.networks_run("search", args, NETWORKS, run)))


if __name__ == "__main__":
    main()

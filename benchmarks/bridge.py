"""Does the bridge hold on every family of keras.applications?

    python benchmarks/bridge.py                  all 13, some minutes
    python benchmarks/bridge.py --only ResNet50 ConvNeXtTiny
    python benchmarks/bridge.py --table          the table again, from the JSON

Each model has random weights with sane statistics (`_models.application`), images of 96 x 96 and
ten logits of order one. `to_legacy` makes its tf_keras twin, `to_keras3` a Keras 3 model of that;
both answer a batch that the bridge has not seen. It fails, after the table, if a twin is off by
more than 1e-4 of the largest logit, or a model does not come back to the bit.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import _models
import keras
import numpy as np

from keras_distill.edge.bridge import to_keras3, to_legacy
from keras_distill.edge.bridge.carried import carried_class

ALLOWED = 1e-4


def measured(name: str, size: int) -> dict[str, Any]:
    """One family's row."""
    model = _models.application(name, size)
    x = _models.images(model, 8, seed=1)
    expected = np.asarray(model(x, training=False))
    begin = time.perf_counter()
    twin = to_legacy(model)
    there = time.perf_counter() - begin
    back = to_keras3(twin)
    seconds = time.perf_counter() - begin
    again = np.asarray(back(x, training=False))
    error = np.abs(np.asarray(twin(x, training=False)) - expected).max() / np.abs(expected).max()
    return {
        "layers": len(model.layers),
        "operations": len(model.operations) - len(model.layers),
        "carried": sum(isinstance(x, carried_class()) for x in twin._flatten_layers()),
        "logits_deviation": float(expected.std()),
        "error_of_scale": float(error),
        "back_to_the_bit": bool(np.array_equal(again, expected)),
        "same_names": [x.name for x in back.layers] == [x.name for x in model.layers],
        "to_legacy_s": round(there, 2),
        "both_ways_s": round(seconds, 2),
    }


def table(stored: dict[str, Any]) -> str:
    header = ["family", "layers", "carried", "logits' sd", "largest error / scale"]
    header += ["to_keras3 exact", "seconds"]
    rows = [
        [name, str(row["layers"]), str(row["carried"]), f"{row['logits_deviation']:.2f}",
         f"{row['error_of_scale']:.1e}", "yes" if holds_back(row) else "NO",
         f"{row['both_ways_s']:.1f}"]
        for name, row in stored["families"].items()
    ]  # fmt: skip
    facts = f"{_common.host_line(stored['host'])}. {stored['size']}x{stored['size']}."
    return f"{facts}\n\n{_common.markdown(header, rows)}"


def holds_back(row: dict[str, Any]) -> bool:
    return row["back_to_the_bit"] and row["same_names"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=_models.FAMILIES, default=_models.FAMILIES)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--smoke", action="store_true", help="two families, another JSON")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    parser.add_argument("--output", type=Path, help="the JSON")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    name = "bridge_smoke.json" if args.smoke else "bridge.json"
    output = args.output or (Path(tempfile.gettempdir()) if args.smoke else _common.RESULTS) / name
    if args.table:
        print(table(_common.read_json(output)))
        return
    facts = {"host": _common.host(), "size": args.size}
    earlier = _common.read_json(output)
    kept = earlier.get("families", {}) if {k: earlier.get(k) for k in facts} == facts else {}
    for family in ("MobileNetV2", "ConvNeXtTiny") if args.smoke else args.only:
        kept[family] = measured(family, args.size)
        print(f"{family}: {kept[family]['error_of_scale']:.1e}", flush=True)
        ordered = {name: kept[name] for name in _models.FAMILIES if name in kept}
        _common.write_json(output, facts | {"families": ordered})
        keras.backend.clear_session()
    print("\n" + table(facts | {"families": ordered}))
    if any(r["error_of_scale"] > ALLOWED or not holds_back(r) for r in ordered.values()):
        sys.exit("The bridge does not hold.")


if __name__ == "__main__":
    main()

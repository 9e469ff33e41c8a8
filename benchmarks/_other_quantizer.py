"""Files of 4 bits by litert-quantizer, in its own environment: it asks for other versions.

    PYTHON -P benchmarks/_other_quantizer.py FLOAT.tflite ROWS.npy FOLDER

benchmarks/four_bits.py calls this. It needs neither TensorFlow nor keras_distill, writes a file for
each recipe into FOLDER, and prints as JSON what became of each.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from litert_quantizer import algorithm_manager, qtyping, quantizer

Names, Operations = algorithm_manager.AlgorithmName, qtyping.TFLOperationName
EVERYTHING = Operations.ALL_SUPPORTED
# It has kernels of 4 bits for these two; depthwise ones keep 8.
OF_FOUR_BITS = (Operations.CONV_2D, Operations.FULLY_CONNECTED)


def static(made: quantizer.Quantizer, algorithm: str) -> None:
    """W4A8."""
    made.add_static_config(".*", EVERYTHING, 8, 8)
    for operation in OF_FOUR_BITS:
        made.add_static_config(".*", operation, 8, 4, algorithm_key=algorithm)


def dynamic(made: quantizer.Quantizer, algorithm: str, blocks: bool = False) -> None:
    """Weights of 4 bits, activations that are rounded as they come."""
    for operation in OF_FOUR_BITS:
        grain = qtyping.QuantGranularity.CHANNELWISE
        if blocks and operation == Operations.FULLY_CONNECTED:
            grain = qtyping.QuantGranularity.BLOCKWISE_32
        made.add_dynamic_config(".*", operation, 4, grain, algorithm)


def weights_alone(made: quantizer.Quantizer, algorithm: str) -> None:
    """Weights of 4 bits, activations in float."""
    for operation in OF_FOUR_BITS:
        made.add_weight_only_config(".*", operation, 4, algorithm_key=algorithm)


RECIPES = {
    "W4A8, min and max": lambda made: static(made, Names.MIN_MAX_UNIFORM_QUANT),
    "W4A8, least squares": lambda made: static(made, Names.MSE),
    "W4A8, OCTAV": lambda made: static(made, Names.OCTAV),
    "dynamic, min and max": lambda made: dynamic(made, Names.MIN_MAX_UNIFORM_QUANT),
    "dynamic, Dense by blocks of 32": lambda made: dynamic(
        made, Names.MIN_MAX_UNIFORM_QUANT, blocks=True
    ),
    "weights alone, min and max": lambda made: weights_alone(made, Names.MIN_MAX_UNIFORM_QUANT),
}


def main() -> None:
    path, rows, folder = Path(sys.argv[1]), np.load(sys.argv[2]), Path(sys.argv[3])
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(str(path)).get_signature_list()
    ((name, ends),) = signature.items()
    (given,) = ends["inputs"]
    found = {}
    # Its reports go to stdout.
    told, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
    for recipe, add in RECIPES.items():
        try:
            made = quantizer.Quantizer(str(path))
            add(made)
            data = {name: [{given: row[None]} for row in rows]}
            ranges = made.calibrate(data, num_threads=1) if made.need_calibration else None
            result = made.quantize(ranges)
            file = folder / f"{len(found)}.tflite"
            file.write_bytes(bytes(result.quantized_model))
            found[recipe] = {"file": str(file)}
        except Exception as error:
            # A recipe that it has not for this network is a row of the table, too.
            found[recipe] = {"error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(found), file=told)


if __name__ == "__main__":
    main()

"""What `import keras_distill` costs beyond `import keras`, in interleaved fresh processes.

python benchmarks/import_time.py [--rounds 15]
"""

import argparse
import statistics
import subprocess
import sys

TIMED = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""
MODULES = ("keras", "keras_distill")


def seconds(module):
    """One import in a fresh process."""
    command = [sys.executable, "-c", TIMED.format(module=module)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for module in MODULES:  # bytecode and file caches
        seconds(module)
    times = [[seconds(module) for module in MODULES] for _ in range(rounds)]
    extra = sorted(ours - theirs for theirs, ours in times)
    for module, column in zip(MODULES, zip(*times, strict=True), strict=True):
        print(f"import {module:<14} {statistics.median(column):.2f} s (median of {rounds})")
    quartiles = statistics.quantiles(extra, n=4)
    print(
        f"difference, pairwise: median {statistics.median(extra):.3f} s, "
        f"quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f} s"
    )


if __name__ == "__main__":
    main()

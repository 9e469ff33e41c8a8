"""How long until the first update: `fit` on one batch, in interleaved fresh processes.

python benchmarks/first_step.py [--rounds 5]

A MobileNetV2 of width 0.35 learns from one of width 1.0, 64x64 pixels, a batch of 8: nearly all of
it is tracing. Plain `student.fit` has no teacher to trace.
"""

import argparse
import json
import statistics
import subprocess
import sys

from _common import host, host_line, markdown

CONTESTANTS = {
    "plain": "plain Keras, no teacher",
    "keras": "keras.distillation",
    "ours": "keras_distill",
}


def seconds(contestant):
    """Of one first `fit`."""
    import time

    import keras
    import numpy as np

    def mobile(width):
        return keras.applications.MobileNetV2(
            (64, 64, 3), alpha=width, weights=None, classes=10, classifier_activation=None
        )

    keras.utils.set_random_seed(0)
    student, teacher = mobile(0.35), mobile(1.0)
    model = student
    if contestant == "keras":
        losses = keras.distillation.LogitsDistillation(4.0, loss=keras.losses.KLDivergence())
        model = keras.distillation.Distiller(teacher, student, losses)
    elif contestant == "ours":
        import keras_distill as kd

        model = kd.Distiller(student, teacher, kd.SoftTargets(temperature=4.0))
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 64, 64, 3)).astype("float32"), np.arange(8) % 10
    start = time.perf_counter()
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    return time.perf_counter() - start


def fresh(contestant):
    command = [sys.executable, __file__, "--once", contestant]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def spread(values):
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(seconds(arguments.once)))
        return
    rounds = [{name: fresh(name) for name in CONTESTANTS} for _ in range(arguments.rounds)]
    rows = [
        (
            words,
            spread([one[name] for one in rounds]),
            spread([one[name] / one["plain"] for one in rounds]),
        )
        for name, words in CONTESTANTS.items()
    ]
    print(f"{host_line(host())}; {arguments.rounds} rounds, median (quartiles)")
    print(markdown(["first fit on one batch", "seconds", "of plain Keras'"], rows))


if __name__ == "__main__":
    main()

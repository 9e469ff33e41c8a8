"""Memory of repeated use: Distillers made and dropped, one fitted again and again, a new teacher.

python benchmarks/repeated.py [--smoke]

Each contestant runs in a process of its own, on ResNet50V2 -> MobileNetV2 0.35 at 96x96 for the
teacher that moves and on a CNN of 1.6 million weights -> a small CNN at 32x32 for the rest. What
is printed is the memory that the process holds, in MiB.
"""

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from _common import host, host_line, markdown

CONTESTANTS = {
    "plain": "plain Keras, no teacher",
    "keras": "keras.distillation",
    "ours": "keras_distill",
    "call": 'keras_distill, engine="keras"',
}
MADE, FITS, MOVES = 10, 50, 3


def resident():
    """MiB of this process that lie in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def cnn(widths):
    import keras

    image = x = keras.Input((32, 32, 3))
    for width in widths:
        x = keras.layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def application(name, **options):
    import keras

    make = getattr(keras.applications, name)
    return make(
        input_shape=(96, 96, 3), weights=None, classes=10, classifier_activation=None, **options
    )


def learner(contestant, student, teacher):
    """What is fitted, compiled."""
    import keras

    model = student
    if contestant == "keras":
        losses = keras.distillation.LogitsDistillation(4.0, loss=keras.losses.KLDivergence())
        model = keras.distillation.Distiller(teacher, student, losses)
    elif contestant != "plain":
        import keras_distill as kd

        engine = "keras" if contestant == "call" else "frozen"
        wrapped = kd.teachers.Model(teacher, engine=engine)
        model = kd.Distiller(student, wrapped, kd.SoftTargets(temperature=4.0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    return model


def rows(size):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.normal(size=(32, size, size, 3)).astype("float32"), np.arange(32) % 10


def made_and_dropped(contestant):
    """MiB after the first of several that were fitted and dropped, and after the last."""
    teacher, (x, y) = cnn((64, 128, 256, 512)), rows(32)
    found = []
    for _ in range(MADE + 1):
        learner(contestant, cnn((8, 16)), teacher).fit(x, y, batch_size=16, verbose=0)
        gc.collect()
        found.append(resident())
    return {"first": found[0], "last": found[-1]}


def fitted_again(contestant):
    """MiB after the first `fit` of one and after the last, with a partial batch and evaluation."""
    teacher, (x, y) = cnn((64, 128, 256, 512)), rows(32)
    model = learner(contestant, cnn((8, 16)), teacher)
    found = []
    for _ in range(FITS + 1):
        model.fit(x, y, batch_size=20, epochs=2, verbose=0)
        model.evaluate(x, y, verbose=0)
        found.append(resident())
    return {"first": found[0], "last": found[-1]}


def teacher_moved(contestant):
    """MiB after the first `fit`, and after others, before each of which the teacher moved."""
    teacher, (x, y) = application("ResNet50V2"), rows(96)
    model = learner(contestant, application("MobileNetV2", alpha=0.35), teacher)
    found = []
    for _ in range(MOVES + 1):
        model.fit(x, y, batch_size=32, verbose=0)
        found.append(resident())
        for variable in teacher.trainable_variables:
            variable.assign(variable * 0.999)
    return {"first": found[0], "last": found[-1]}


PARTS = {
    f"{MADE} more, each made, fitted and dropped": made_and_dropped,
    f"one, {FITS} more calls of fit and evaluate": fitted_again,
    f"one, {MOVES} more calls of fit, the teacher moved before each": teacher_moved,
}


def fresh(part, contestant):
    command = [sys.executable, __file__, "--once", part, contestant]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the first part alone")
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        part, contestant = arguments.once
        print(json.dumps(PARTS[part](contestant)))
        return
    print(host_line(host()))
    for part in list(PARTS)[: 1 if arguments.smoke else None]:
        found = {name: fresh(part, name) for name in CONTESTANTS}
        table = [
            (CONTESTANTS[name], f"{one['first']:,.0f}", f"{one['last'] - one['first']:+,.0f}")
            for name, one in found.items()
        ]
        print("\n" + markdown([part, "MiB after the first", "and since"], table))


if __name__ == "__main__":
    main()

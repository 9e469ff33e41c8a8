"""Where a step of the large pair goes: `train_step` on one batch that is there already, by turns.

    python benchmarks/step_profile.py [--rounds 14]

The pair is step_time.py's (b). "constant" is our step under a teacher that costs nothing.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import keras
import numpy as np
import step_time
import tensorflow as tf

import keras_distill as kd


def stepper(model, batch):
    """A compiled `train_step` on one batch."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    return tf.function(lambda: model.train_step(batch), autograph=False)


def contestants(x, y):
    teacher, batch = step_time.resnet(), (x, y)
    row = tf.random.stateless_normal((100,), (0, 0))
    teachers = {
        "constant": kd.teachers.Model(lambda v: tf.reduce_mean(v, (1, 2, 3))[:, None] * row),
        "frozen": teacher,
        "keras call": kd.teachers.Model(teacher, engine="keras"),
        "bfloat16": kd.teachers.Model(teacher, precision="bfloat16"),
    }
    calls = {"plain step": stepper(step_time.mobilenet(), batch)}
    for name, one in teachers.items():
        calls[f"ours, {name}"] = stepper(kd.Distiller(step_time.mobilenet(), one), batch)
    theirs = keras.distillation.LogitsDistillation(4.0, loss=keras.losses.KLDivergence())
    calls["keras.distillation"] = stepper(
        keras.distillation.Distiller(teacher, step_time.mobilenet(), theirs), batch
    )
    for engine in ("keras", "frozen", "litert"):
        alone = kd.teachers.Model(teacher, engine=engine)
        alone.prepare(None, ())
        calls[f"teacher alone, {engine}"] = tf.function(
            lambda t=alone: {"logits": t(x).logits}, autograph=False
        )
    return calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=14)
    rounds = parser.parse_args().rounds
    _common.set_threads(2)
    x = tf.random.stateless_normal((32, 96, 96, 3), (1, 0))
    calls = contestants(x, tf.range(32))
    times = {name: [] for name in calls}
    for _ in range(rounds + 3):
        for name, call in calls.items():
            begin = time.perf_counter()
            for value in call().values():
                np.asarray(value)
            times[name].append(1e3 * (time.perf_counter() - begin))
    print(_common.host_line(_common.host()))
    for name, each in times.items():
        low, middle, high = statistics.quantiles(each[3:], n=4)
        print(f"{name:<24} {middle:6.1f} ms (quartiles {low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()

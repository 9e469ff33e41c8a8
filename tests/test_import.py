"""Importing keras_distill changes nothing in the process, whatever was imported before."""

import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

STEPS = {
    "keras": "import keras",
    "tf.keras": "import tensorflow as tf; tf.keras.Model",
    "ours": "import keras_distill",
}
ORDERS = list(itertools.permutations(STEPS))
WATCH = """
import json, os, sys, time
environments, seconds = [], 0.0
def watched(source):
    global seconds
    before, begin = dict(os.environ), time.perf_counter()
    exec(source, globals())
    seconds = time.perf_counter() - begin
    return dict(os.environ) == before
{steps}
import tensorflow as tf
print(json.dumps({{
    "unchanged": unchanged, "seconds": took,
    "tf.keras": [tf.keras.__version__, tf.keras.Model.__module__],
    "heavy": sorted({{"tensorflow_model_optimization", "tf_keras"}} & set(sys.modules)),
}}))
"""


def look(order):
    """Run the steps in a process of their own; what ours changed there."""
    lines = ["unchanged, took = None, None"]
    for step in order:
        if step == "ours":
            lines.append(f"unchanged = watched({STEPS[step]!r}); took = seconds")
        else:
            lines.append(STEPS[step])
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    output = subprocess.run(
        [sys.executable, "-c", WATCH.format(steps="\n".join(lines))],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def seen():
    orders = [*ORDERS, ("keras", "tf.keras")]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(orders, pool.map(look, orders), strict=True))


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_the_environment_is_as_it_was(seen, order):
    # The very first import of Keras may set what Keras sets; ours adds nothing to it.
    if order[0] == "ours":
        return
    assert seen[order]["unchanged"]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_tf_keras_means_what_it_means_without_us(seen, order):
    assert seen[order]["tf.keras"] == seen["keras", "tf.keras"]["tf.keras"]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_keras_2_stays_out(seen, order):
    assert seen[order]["heavy"] == []


def test_it_costs_little_more_than_keras(seen):
    # The least of three: the others shared the machine with more.
    costs = [
        result["seconds"]
        for order, result in seen.items()
        if "ours" in order and order.index("keras") < order.index("ours")
    ]
    assert len(costs) == 3
    assert min(costs) <= 0.15

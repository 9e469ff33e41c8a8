"""Importing keras_distill changes nothing in the process, whatever was imported before."""

import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.slow

STEPS = {
    "keras": "import keras",
    "tf.keras": "import tensorflow as tf; tf.keras.Model",
    "ours": "import keras_distill",
}
ORDERS = list(itertools.permutations(STEPS))
WATCH = """
import json, os, sys
changed = {{}}
def watched(name, source):
    before = dict(os.environ)
    exec(source, globals())
    changed[name] = sorted(set(before.items()) ^ set(os.environ.items()))
{steps}
import tensorflow as tf
print(json.dumps({{
    "changed": changed,
    "tf.keras": [tf.keras.__version__, tf.keras.Model.__module__],
    "heavy": sorted({{"tensorflow_model_optimization", "tf_keras"}} & set(sys.modules)),
}}))
"""


def look(order):
    """Run the steps in a process of their own: what each changed there, and what is in the end."""
    steps = "\n".join(f"watched({step!r}, {STEPS[step]!r})" for step in order)
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    output = subprocess.run(
        [sys.executable, "-c", WATCH.format(steps=steps)],
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
    allowed = seen["keras", "tf.keras"]["changed"]["keras"] if order[0] == "ours" else []
    assert seen[order]["changed"]["ours"] == allowed


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_tf_keras_means_what_it_means_without_us(seen, order):
    assert seen[order]["tf.keras"] == seen["keras", "tf.keras"]["tf.keras"]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_keras_2_stays_out(seen, order):
    assert seen[order]["heavy"] == []

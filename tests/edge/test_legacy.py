"""Whoever imports first, the process ends the same."""

import itertools
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

IMPORTS = {
    "keras": "import keras",
    "tf.keras": "import tensorflow as tf; tf.keras.layers",
    "ours": "from keras_distill.edge import legacy; legacy.tf_keras(); legacy.tfmot()",
}
REPORT = """
import os, sys, tensorflow as tf
print(os.environ.get("TF_USE_LEGACY_KERAS"), tf.keras.layers.Layer.__module__.split(".")[0],
      __import__("keras").__version__[0], "tf_keras" in sys.modules)
"""


def report(lines, **environment):
    environment = {
        **{k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"},
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, REPORT])],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize("order", list(itertools.permutations(IMPORTS))[::2])
def test_every_order_of_importing_ends_the_same(order):
    assert report([IMPORTS[name] for name in order]) == ["None", "keras", "3", "True"]


def test_a_users_own_switch_stays_as_it_was():
    assert report([IMPORTS["ours"]], TF_USE_LEGACY_KERAS="1") == ["1", "tf_keras", "3", "True"]


def test_importing_the_bridge_imports_neither():
    lines = [
        "import keras_distill.edge.bridge, sys",
        "assert 'tf_keras' not in sys.modules",
        "assert 'tensorflow_model_optimization' not in sys.modules",
    ]
    assert report(lines) == ["None", "keras", "3", "False"]

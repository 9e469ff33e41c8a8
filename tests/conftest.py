"""What every test shares: real digits, and tiny models of fixed weights."""

import os
import shutil
import signal

# Before TensorFlow loads: its first lines would hide pytest's.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker for each core: each computes in one thread, as do the processes that it starts.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import pytest
from keras.src.utils import naming  # Keras has no public name for it.

from keras_distill.data import load_digits

# Importing TFMOT sets it, for every test of the process and their children.
LEGACY = os.environ.get("TF_USE_LEGACY_KERAS")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Docstrings run beside what is slow, on whatever core waits for it."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("slow")


def pytest_collection_finish():
    assert os.environ.get("TF_USE_LEGACY_KERAS") == LEGACY, "a test file imports TFMOT by itself"


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """A shell hands Ctrl-C down as ignored to what it runs in the background, and its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def names_from_one():
    """Keras numbers layers through the process: each file sees the names it would see alone."""
    naming.reset_uids()


@pytest.fixture(scope="session")
def digits():
    """The digits that scikit-learn ships, as ImageSplits."""
    return load_digits()


@pytest.fixture(scope="session")
def small_cnn():
    """Builds a small CNN on 8x8 images: `small_cnn(width, softmax=False, dropout=0.0, seed=0)`.

    Its layers "low" (8x8) and "high" (4x4) are there to tap.
    """

    def build(width, softmax=False, dropout=0.0, seed=0, classes=10, **options):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="low"),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Conv2D(2 * width, 3, strides=2, padding="same", name="high"),
                keras.layers.Flatten(),
                keras.layers.Dropout(dropout, seed=seed),
                keras.layers.Dense(
                    classes, activation="softmax" if softmax else None, name="logits", **options
                ),
            ],
            name=f"cnn_{width}",
        )

    return build


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=found, args=["--no-sandbox"])

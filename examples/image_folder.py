"""Your own folder of images, a folder inside it for each class, by a network of few weights.

Shows: `image_dataset_from_directory`, a teacher of keras.applications, augmentation in tf.data that
    teacher and student see alike, an int8 file that takes pixels of 0 to 255.
Needs: pip install -e ".[demo]"; your folder by --folder, else a part of CIFAR-10 is written to one
    (KERAS_DISTILL_DATA or Keras' cache, keras_distill.data.load_cifar10).
Takes: some five minutes on two cores; --smoke makes its own images and takes seconds.

    python examples/image_folder.py
    python examples/image_folder.py --folder photographs --weights imagenet

The teacher is a MobileNetV2 with a new head. With --weights imagenet Keras downloads what it has
learned before, and you should; without a network it begins with nothing, and so it does here. It
knows all labels, the student a tenth, as the twin does: the same network, first weights and updates
on these alone. A view is flipped and shifted before either model sees it: one `map` for both.
"""

from pathlib import Path

from _shared import arguments, draw, in_folder, some_labels, table

import keras
import numpy as np
import tensorflow as tf

import keras_distill as kd

layers = keras.layers
SIZE, BATCH = 48, 32
KINDS = ("airplane", "automobile", "bird", "cat", "ship")


def write_folder(folder: Path, smoke: bool) -> None:
    """What you have already: a file an image, in `train` and `test`, a folder for each class."""
    rng = np.random.default_rng(0)
    if not smoke:
        found = kd.data.load_cifar10(download=True)
    for part, count in (("train", 10 if smoke else 1500), ("test", 6 if smoke else 300)):
        for number, kind in enumerate(KINDS):
            if smoke:
                images = rng.uniform(size=(count, 8, 8, 3)) * (number + 1) / len(KINDS)
            else:
                x, y = (getattr(found, f"{what}_{part}") for what in "xy")
                images = x[y == found.class_names.index(kind)][:count]
            (folder / part / kind).mkdir(parents=True)
            for row, image in enumerate(images):
                keras.utils.save_img(folder / part / kind / f"{row:04}.png", image)


def read(folder: Path) -> tuple[tf.data.Dataset, np.ndarray, list[str]]:
    """Images of bytes, kept in memory once they are read, their labels, and the classes' names."""
    data = keras.utils.image_dataset_from_directory(
        folder, image_size=(SIZE, SIZE), batch_size=None, shuffle=False, verbose=False
    )
    y = np.array([data.class_names.index(Path(path).parent.name) for path in data.file_paths])
    return data.map(lambda x, _: tf.cast(x, "uint8")).cache(), y, data.class_names


def views(images: tf.data.Dataset, labels: np.ndarray, wanted=lambda x, y: True) -> tf.data.Dataset:
    """Flipped and shifted anew at each pass: batches for ever."""

    def seen(x, y):
        padded = tf.pad(tf.cast(x, "float32"), [[5, 5], [5, 5], [0, 0]], "SYMMETRIC")
        return tf.image.random_flip_left_right(tf.image.random_crop(padded, x.shape)), y

    both = tf.data.Dataset.zip((images, tf.data.Dataset.from_tensor_slices(labels)))
    both = both.filter(wanted).cache().shuffle(len(labels)).repeat().map(seen)
    return both.batch(BATCH).prefetch(2)


def teacher_of(classes: int, weights: str | None) -> keras.Model:
    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2(
        (SIZE, SIZE, 3), alpha=0.35, include_top=False, weights=weights, pooling="avg"
    )
    for layer in base.layers if weights is None else ():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # its 0.999 are made for a hundred thousand updates
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Dropout(0.2)(base(layers.Rescaling(1 / 127.5, -1.0)(image)))
    return keras.Model(image, layers.Dense(classes)(x))


def network(classes: int, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    for width in (8, 16, 24, 32):
        x = layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(image, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def fitted(model: keras.Model, data: tf.data.Dataset, steps: int, rate: float = 0.01) -> None:
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # For few steps, as in a trial, a MobileNet's graph is not worth its making.
    model.compile(keras.optimizers.Adam(falling), loss, run_eagerly=steps < 10)
    model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0)


def run(seed: int, train: tuple, test: tuple, teacher, steps: int, folder: Path) -> dict:
    (images, y, names), (unseen, y_test) = train, test
    few = some_labels(y, 0.1, seed)
    twin, student = network(len(names), seed), network(len(names), seed)
    fitted(twin, views(images, few, lambda _, y: y >= 0), steps)
    fitted(
        kd.Distiller(student, teacher, kd.SoftTargets(temperature=2.0)), views(images, few), steps
    )

    some = next(iter(views(images, y).unbatch().batch(256)))[0]
    small = kd.edge.quantize_aware(student, calibration_data=some)
    path = folder / f"student{seed}.tflite"
    export = kd.edge.export_tflite(small, path, precision="int8", labels=names)
    kd.edge.verify(export, student, some.numpy(), quantized=small)
    answers = {
        "MobileNetV2, all labels": teacher.predict(unseen, verbose=0),
        "network, a tenth of the labels": twin.predict(unseen, verbose=0),
        "the same, distilled": student.predict(unseen, verbose=0),
        "its int8 file": kd.edge.load_tflite(path).predict(unseen),
    }
    return {
        name: {"accuracy": 100 * float(np.mean(np.argmax(logits, -1) == y_test))}
        for name, logits in answers.items()
    }


def main() -> None:
    own = {"folder": "holds train and test", "weights": "imagenet, or a file; none by default"}
    args = arguments(__doc__, seeds=3, **own)
    steps = 2 if args.smoke else 1200
    with in_folder(args.output) as folder, in_folder(None) as made:
        if args.folder is None:
            write_folder(made, args.smoke)
        where = Path(args.folder or made)
        images, y, names = read(where / "train")
        unseen, y_test, _ = read(where / "test")
        unseen = np.stack(list(unseen.as_numpy_iterator())).astype("float32")
        teacher = teacher_of(len(names), args.weights)
        rate = 0.003 if args.weights is None else 0.0005
        fitted(teacher, views(images, y), 3 * steps, rate)
        found = [
            run(seed, (images, y, names), (unseen, y_test), teacher, steps, folder)
            for seed in range(args.seeds)
        ]
        print(table(found, "network, a tenth of the labels", better={"accuracy": 1}))
        draw(found, "accuracy", folder / "image_folder.png", "accuracy, %")


if __name__ == "__main__":
    main()

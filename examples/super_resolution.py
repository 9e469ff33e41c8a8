"""From 16 to 32 pixels: a student that sees the small image, a teacher that has seen the large one.

Shows: hints from a teacher with another input, PSNR, an int8 file whose answer is an image.
Needs: pip install -e ".[demo]"; CIFAR-10 in a folder that KERAS_DISTILL_DATA names or in Keras'
    cache, where it is downloaded to where it is missing (keras_distill.data.load_cifar10).
Takes: some five minutes on two cores; --smoke takes scikit-learn's photographs, and seconds.

    python examples/super_resolution.py

After Lee, Lee, Kim and Ham, "Learning with Privileged Information for Efficient Image
Super-Resolution" (ECCV 2020). The teacher codes the large image in as many numbers as the small one
has, and decodes it by the student's own network: what it has in front of its last layer says what
is good to know there. The student sees the small image and learns the large one, as its twin does,
and to tell as much as it can of the teacher's features besides. All pairs are known to both.
"""

from pathlib import Path

from _shared import arguments, draw, in_folder, table

import keras
import numpy as np
import tensorflow as tf

import keras_distill as kd

BATCH = 32
layers = keras.layers


def small(images):
    """What a sensor of a quarter of the pixels sees: the mean of four."""
    return tf.nn.avg_pool2d(images, 2, 2, "VALID")


def images(smoke: bool) -> tuple[np.ndarray, np.ndarray]:
    """To train on and to test on, `(n, 32, 32, 3)` in [0, 1]."""
    if not smoke:
        found = kd.data.load_cifar10(download=True)
        return found.x_train[:10000], found.x_test[:2000]
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("china.jpg")[:416, :640].astype("float32") / 255
    tiles = photograph.reshape(13, 32, 20, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    return tiles[:200], tiles[200:]


def decoder(seed: int, name: str) -> keras.Model:
    """What is to be added to the blurred image (after Dong et al.'s FSRCNN, ECCV 2016)."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(24, 5, padding="same", activation="leaky_relu")(image)
    x = layers.Conv2D(8, 1, activation="leaky_relu")(x)
    for _ in range(2):
        x = layers.Conv2D(8, 3, padding="same", activation="leaky_relu")(x)
    x = layers.Conv2D(24, 1, activation="leaky_relu", name="features")(x)
    x = layers.Conv2DTranspose(3, 6, 2, padding="same", name="details")(x)
    blurred = layers.UpSampling2D(interpolation="bilinear")(image)
    return keras.Model(image, layers.Add()([blurred, x]), name=name)


def teacher_of(seed: int) -> keras.Model:
    large = keras.Input((32, 32, 3))
    part = decoder(seed, "decoder")
    x = layers.Conv2D(16, 3, padding="same", activation="leaky_relu")(large)
    x = layers.Conv2D(32, 3, 2, padding="same", activation="leaky_relu")(x)
    # Near to the small image, else the decoder would have nothing left to do.
    x = layers.ActivityRegularization(l2=0.001)(layers.Conv2D(3, 3, padding="same")(x))
    code = layers.Add(name="code")([x, layers.AveragePooling2D(2)(large)])
    return keras.Model(large, part(code))


def compiled(model: keras.Model, steps: int) -> keras.Model:
    rate = keras.optimizers.schedules.CosineDecay(0.003, steps)
    model.compile(keras.optimizers.Adam(rate), keras.losses.MeanAbsoluteError())
    return model


def measured(answers: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    found = tf.clip_by_value(answers, 0.0, 1.0)
    return {
        "PSNR": float(np.mean(tf.image.psnr(found, wanted, 1.0))),
        "SSIM": float(np.mean(tf.image.ssim(found, wanted, 1.0, filter_size=7))),
    }


def run(seed: int, large: np.ndarray, test: np.ndarray, steps: int, folder: Path) -> dict:
    order = np.random.default_rng(seed).permutation(len(large))
    large = large[np.resize(order, steps * BATCH)]
    seen, test_seen = np.asarray(small(large)), np.asarray(small(test))

    teacher = compiled(teacher_of(seed + 100), steps)
    teacher.fit(large, large, batch_size=BATCH, shuffle=False, verbose=0)
    twin, student = decoder(seed, "twin"), decoder(seed, "student")
    compiled(twin, steps).fit(seen, large, batch_size=BATCH, shuffle=False, verbose=0)
    hint = kd.objectives.VariationalInformation(
        "features", "decoder/features", initial_variance=0.05
    )
    distiller = kd.Distiller(student, teacher, hint, label_weight=0.9, student_preprocess=small)
    compiled(distiller, steps).fit(large, large, batch_size=BATCH, shuffle=False, verbose=0)

    path = folder / f"student{seed}.tflite"
    integers = kd.edge.quantize_aware(student, calibration_data=seen[:256])
    export = kd.edge.export_tflite(integers, path, precision="int8")
    kd.edge.verify(export, student, seen[:256], quantized=integers)
    answers = {
        "teacher, which has seen the answer": teacher.predict(test, verbose=0),
        "bicubic": tf.image.resize(test_seen, (32, 32), "bicubic"),
        "network, by pairs alone": twin.predict(test_seen, verbose=0),
        "the same, distilled": student.predict(test_seen, verbose=0),
        "its int8 file": kd.edge.load_tflite(path).predict(test_seen),
    }
    return {name: measured(found, test) for name, found in answers.items()}


def main() -> None:
    args = arguments(__doc__, seeds=3)
    train, test = images(args.smoke)
    steps = 6 if args.smoke else 1500
    with in_folder(args.output) as folder:
        found = [run(seed, train, test, steps, folder) for seed in range(args.seeds)]
        print(table(found, "network, by pairs alone", better={"PSNR": 1, "SSIM": 1}))
        draw(found, "PSNR", folder / "super_resolution.png", "PSNR, dB")


if __name__ == "__main__":
    main()

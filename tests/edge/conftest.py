"""One trained digits model and its exports, shared: every conversion costs a process start."""

import keras
import pytest

from keras_distill import data, edge


@pytest.fixture(scope="session")
def digits():
    return data.load_digits()


@pytest.fixture(scope="session")
def digits_model(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(24, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss)
    model.fit(digits.x_train, digits.y_train, epochs=6, verbose=0)
    return model


@pytest.fixture(scope="session")
def exported(digits, digits_model, tmp_path_factory):
    """The digits model's export at a precision, made at its first use."""
    folder = tmp_path_factory.mktemp("exports")
    made = {}

    def export(precision, **options):
        key = (precision, *options.items())
        if key not in made:
            if precision in ("int8", "int16x8"):
                options["representative_data"] = digits.x_train
            path = folder / f"{len(made)}.tflite"
            made[key] = edge.export_tflite(
                digits_model, path, precision=precision, labels=digits.class_names, **options
            )
        return made[key]

    return export

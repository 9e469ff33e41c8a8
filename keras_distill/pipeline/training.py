"""What every training of the demo shares: the models, the batches, the bars, the fit."""

import json
from pathlib import Path

import keras
import numpy as np
from rich.progress import Progress


class Batches(keras.utils.PyDataset):
    """Full batches in an order that only the seed decides, whatever the number of images.

    One epoch is always `steps` batches: few images come round more often, in new orders, so
    that trainings on different numbers of images have the same budget.
    """

    def __init__(self, x, y, batch_size, steps, seed):
        super().__init__()
        self._x, self._y = x, y
        self._batch_size, self._steps = batch_size, steps
        self._random = np.random.default_rng(seed)
        self._rest = np.empty(0, dtype=np.int64)
        self.on_epoch_end()

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._x[chosen], self._y[chosen]

    def on_epoch_end(self):
        """Draw the next epoch's order, going on where this one stopped among the images."""
        needed = self._steps * self._batch_size
        while len(self._rest) < needed:
            self._rest = np.concatenate([self._rest, self._random.permutation(len(self._x))])
        self._order, self._rest = self._rest[:needed], self._rest[needed:]


class Bar(keras.callbacks.Callback):
    """A training's progress as one bar of rich's."""

    def __init__(self, progress: Progress, title: str) -> None:
        super().__init__()
        self._progress, self._title = progress, title

    def on_train_begin(self, logs=None):
        """Show the bar."""
        total = self.params["epochs"] * self.params["steps"]
        self._task = self._progress.add_task(self._title, total=total, detail="")

    def on_train_batch_end(self, batch, logs=None):
        """Advance by a batch."""
        self._progress.advance(self._task)

    def on_epoch_end(self, epoch, logs=None):
        """Say how far it is."""
        detail = f"epoch {epoch + 1}/{self.params['epochs']}, validation "
        detail += f"{logs['val_accuracy']:.1%}"
        self._progress.update(self._task, detail=detail)

    def on_train_end(self, logs=None):
        """Take the bar away: the stage's own line follows."""
        self._progress.remove_task(self._task)


def teacher_cnn(shape, classes, width, seed):
    """The large model: three blocks of convolutions with batch normalisation; gives logits."""
    keras.utils.set_random_seed(seed)
    image = keras.Input(shape, name="image")
    x = image
    for block, factor in enumerate((1, 2, 4)):
        x = keras.layers.Conv2D(
            width * factor, 3, padding="same", use_bias=False, name=f"block{block}_conv"
        )(x)
        # Keras' momentum of 0.99 needs more steps than a small set has.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"block{block}_norm")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
        if block < 2:
            x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(0.3, name="dropout")(x)
    return keras.Model(image, keras.layers.Dense(classes, name="logits")(x), name="teacher")


def student_cnn(shape, classes, width, seed):
    """The small model: two strided convolutions; gives logits."""
    keras.utils.set_random_seed(seed)
    image = keras.Input(shape, name="image")
    x = image
    for block, factor in enumerate((1, 2)):
        x = keras.layers.Conv2D(
            width * factor,
            3,
            strides=2,
            padding="same",
            activation="relu",
            name=f"block{block}_conv",
        )(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, keras.layers.Dense(classes, name="logits")(x), name="student")


def compile_for_labels(model, learning_rate, steps):
    """Adam on a cosine from `learning_rate` to zero over `steps`, cross-entropy, accuracy."""
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps=steps)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def fit(model, batches, validation, epochs, bar):
    """Fit and return the history as lists of plain numbers."""
    history = model.fit(
        batches,
        validation_data=validation,
        validation_batch_size=256,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[bar],
    )
    return {name: [float(value) for value in values] for name, values in history.history.items()}


def save(model, history, folder: Path, name: str) -> str:
    """Write `name.keras`, without an optimiser, and `name_history.json`; say how good it is."""
    bare = model.__class__.from_config(model.get_config())
    bare.set_weights(model.get_weights())
    bare.save(folder / f"{name}.keras")
    (folder / f"{name}_history.json").write_text(json.dumps(history) + "\n", encoding="utf-8")
    accuracy = history["val_accuracy"]
    return f"validation accuracy {accuracy[-1]:.1%} after {len(accuracy)} epochs"


def keep_labels(labels, fraction, seed):
    """The labels with all but `fraction` of every class set to -1, at least one a class kept."""
    if fraction == 1.0:
        return labels
    random = np.random.default_rng(seed)
    kept = np.full_like(labels, -1)
    for value in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == value))
        rows = rows[: max(1, round(fraction * len(rows)))]
        kept[rows] = value
    return kept

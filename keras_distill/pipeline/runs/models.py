"""The builders of ours, and a recipe's models as they begin."""

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import keras

from keras_distill.pipeline.inputs import load_model, one_line
from keras_distill.pipeline.recipes.sources import ModelSource
from keras_distill.pipeline.runs.examples import Examples, inside
from keras_distill.pipeline.runs.importing import imported
from keras_distill.training.stages import UsageError

__all__ = ["BUILDERS", "begun"]

layers = keras.layers


def cnn(
    shape: tuple[int, ...],
    units: int,
    *,
    width: int = 32,
    blocks: int = 3,
    dropout: float = 0.3,
    downsample: int = 1,
) -> keras.Model:
    """Blocks of a convolution, BatchNormalization and ReLU, each twice as wide; gives logits."""
    image = keras.Input(shape, name="image")
    x = _smaller(image, downsample)
    for block in range(blocks):
        name = f"block{block}"
        x = layers.Conv2D(width * 2**block, 3, padding="same", use_bias=False, name=f"{name}_conv")(
            x
        )
        # Keras' momentum of 0.99 needs more steps than a small set has.
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
        if block < blocks - 1 and min(x.shape[1:3]) > 2:
            x = layers.MaxPooling2D(name=f"{name}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(image, layers.Dense(units, name="logits")(x))


def small_cnn(
    shape: tuple[int, ...], units: int, *, width: int = 8, downsample: int = 1
) -> keras.Model:
    """Two strided convolutions; gives logits."""
    image = keras.Input(shape, name="image")
    x = _smaller(image, downsample)
    for block in range(2):
        x = layers.Conv2D(
            width * 2**block,
            3,
            strides=2,
            padding="same",
            activation="relu",
            name=f"block{block}_conv",
        )(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(units, name="logits")(x))


def sound_cnn(
    shape: tuple[int, ...], units: int, *, width: int = 32, blocks: int = 3
) -> keras.Model:
    """A strided convolution over 40 mel bands, then depthwise separable ones; gives logits.

    The bands come from the samples inside the model, in decibels brought to about -1 to 1.
    """
    samples = keras.Input(shape, name="samples")
    x = layers.MelSpectrogram(
        fft_length=256,
        sequence_stride=128,
        sampling_rate=8000,
        num_mel_bins=40,
        min_freq=60.0,
        max_freq=3800.0,
        name="mel",
    )(samples)
    x = layers.Rescaling(1 / 35, offset=1.0, name="scale")(x)
    x = layers.Reshape((*x.shape[1:], 1), name="image")(x)
    x = layers.Conv2D(width, 5, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    for block in range(blocks):
        name = f"block{block}"
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}_depth")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_depth_norm")(x)
        x = layers.ReLU(name=f"{name}_depth_relu")(x)
        x = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_point")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(samples, layers.Dense(units, name="logits")(x))


def mlp(
    shape: tuple[int, ...], units: int, *, width: int = 64, depth: int = 2, dropout: float = 0.0
) -> keras.Model:
    """Dense layers with ReLU between; gives logits, or numbers."""
    values = keras.Input(shape, name="values")
    x = values if len(shape) == 1 else layers.Flatten(name="flat")(values)
    for layer in range(depth):
        x = layers.Dense(width, activation="relu", name=f"dense{layer}")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(values, layers.Dense(units, name="logits")(x))


BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "cnn": cnn,
    "small_cnn": small_cnn,
    "sound_cnn": sound_cnn,
    "mlp": mlp,
}


def _smaller(image: Any, factor: int) -> Any:
    """The image in the mean over squares: what a camera of less resolution would see."""
    return image if factor == 1 else layers.AveragePooling2D(factor, name="downsample")(image)


def begun(
    name: str, source: ModelSource, examples: Examples, root: Path, allowed: Collection[str]
) -> keras.Model:
    """The model that a recipe's line begins with; the caller has set the seed.

    Raises:
      UsageError: no such file, arguments that the builder does not take, a builder that fails or
        returns no model, or a model that does not fit the data.
    """
    key = f"models.{name}"
    if source.file is not None:
        model = load_model(inside(source.file, f"{key}.file", root))
    else:
        assert source.build is not None
        ours = BUILDERS.get(source.build)
        builder = ours or imported(source.build, f"{key}.build", allowed)
        model = _built(builder, key, source, examples)
    shape = examples.train.x.shape[1:]
    found = model.input_shape if isinstance(model.input_shape, tuple) else None
    if (
        found is None
        or len(found) != len(shape) + 1
        or any(ours not in (None, theirs) for ours, theirs in zip(found[1:], shape, strict=True))
    ):
        raise UsageError(
            f"{key}: it takes {found if found is None else found[1:]}, the data have {shape}."
        )
    return model


def _built(builder: Any, key: str, source: ModelSource, examples: Examples) -> keras.Model:
    shape, units = examples.train.x.shape[1:], examples.units
    if source.build in BUILDERS:
        taken = list(inspect.signature(builder).parameters)[2:]
        if unknown := [one for one in source.arguments if one not in taken]:
            raise UsageError(
                f"{key}.arguments: {source.build} has no argument {unknown[0]}; it takes "
                f"{', '.join(taken)}."
            )
    try:
        model = builder(shape, units, **source.arguments)
    # A builder of the user's raises what it likes.
    except Exception as error:
        raise UsageError(
            f"{key}.build: {source.build}{shape, units} failed: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    if not isinstance(model, keras.Model):
        raise UsageError(
            f"{key}.build: {source.build} must return a keras.Model; got {type(model).__name__}."
        )
    return model

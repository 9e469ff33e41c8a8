"""keras.applications with weights that behave like trained ones, without a download."""

from typing import Any

import keras
import numpy as np

FAMILIES = (
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "ResNet50",
    "ResNet50V2",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "NASNetMobile",
    "Xception",
    "InceptionV3",
    "ConvNeXtTiny",
)
_PASSES, _BATCH = 6, 16


def application(name: str, size: int = 96, seed: int = 0, classes: int = 10) -> keras.Model:
    """A model of `keras.applications` whose activations and logits are of order one.

    Its initial weights, BatchNorm statistics found by training-mode passes over random images and
    then jittered with gamma and beta, the last Dense scaled until the logits' deviation is one.
    Always the same for the same arguments.

    Args:
      name: as in `keras.applications`; `FAMILIES` has one a family.
      size: height and width of the images.
      seed: of weights, images and jitter.
      classes: logits, without a softmax.
    """
    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=classes, classifier_activation=None
    )
    generator = np.random.default_rng(seed)
    _jitter_preprocessing(model, generator)
    x = images(model, _BATCH, seed)
    _settle(model, x)
    for layer in _all_layers(model):
        _jitter(layer, generator)
    _scale_logits(model, x)
    return model


def images(model: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Smooth random images in the range that the model takes: 0 to 255, or -1 to 1."""
    _, height, width, channels = model.input_shape
    generator = np.random.default_rng(1000 + seed)
    coarse = generator.uniform(size=(count, height // 8 + 2, width // 8 + 2, channels))
    smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    x = np.clip(smooth + 0.1 * generator.normal(size=smooth.shape), 0.0, 1.0)
    return (255 * x if preprocesses(model) else 2 * x - 1).astype("float32")


def preprocesses(model: keras.Model) -> bool:
    """Whether the model scales its own input."""
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    return any(isinstance(layer, kinds) for layer in model.layers)


def _all_layers(model: keras.Model) -> list[Any]:
    return list(model._flatten_layers(include_self=False))


def _jitter_preprocessing(model: keras.Model, generator: np.random.Generator) -> None:
    for layer in _all_layers(model):
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.adapt_mean.assign(generator.uniform(0.4, 0.5, layer.adapt_mean.shape))
            layer.adapt_variance.assign(generator.uniform(0.04, 0.06, layer.adapt_mean.shape))
            layer.finalize_state()


def _settle(model: keras.Model, x: np.ndarray) -> None:
    norms = [x for x in _all_layers(model) if isinstance(x, keras.layers.BatchNormalization)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.3
    for _ in range(_PASSES if norms else 0):
        model(x, training=True)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def _jitter(layer: Any, generator: np.random.Generator) -> None:
    if isinstance(layer, keras.layers.BatchNormalization):
        deviation = np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
        shape = deviation.shape
        layer.moving_mean.assign_add(0.1 * deviation * generator.normal(size=shape))
        layer.moving_variance.assign(deviation**2 * generator.uniform(0.8, 1.25, shape))
        if layer.scale:
            layer.gamma.assign(generator.uniform(0.8, 1.2, shape))
        if layer.center:
            layer.beta.assign(0.1 * generator.normal(size=shape))
    elif type(layer).__name__ == "LayerScale":
        # From 1e-6, where every block would be the identity.
        layer.gamma.assign(generator.uniform(0.1, 0.3, layer.gamma.shape))


def _scale_logits(model: keras.Model, x: np.ndarray) -> None:
    last = next(layer for layer in reversed(model.layers) if layer.weights)
    logits = np.asarray(model(x, training=False), "float64")
    last.kernel.assign(np.asarray(last.kernel) / max(logits.std(), 1e-12))


# --- small networks of the families' blocks -----------------------------------------------------


def _conv(x: Any, width: int, size: int = 3, stride: int = 1) -> Any:
    layer = keras.layers.Conv2D(width, size, stride, padding="same", use_bias=False)
    return keras.layers.BatchNormalization(momentum=0.9)(layer(x))


def _depthwise(x: Any, stride: int = 1) -> Any:
    layer = keras.layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)
    return keras.layers.BatchNormalization(momentum=0.9)(layer(x))


def _squeeze_excite(x: Any, gate: str) -> Any:
    width = x.shape[-1]
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    pooled = keras.layers.Conv2D(max(4, width // 4), 1, activation="relu")(pooled)
    pooled = keras.layers.Conv2D(width, 1, activation=gate)(pooled)
    return keras.layers.Multiply()([x, pooled])


def _inverted_residual(
    x: Any, width: int, stride: int, activation: str, gate: str | None = None
) -> Any:
    """Expanded, depthwise, gated, projected; added to what came in where the shapes allow."""
    y = keras.layers.Activation(activation)(_conv(x, 4 * x.shape[-1], 1))
    y = keras.layers.Activation(activation)(_depthwise(y, stride))
    y = _conv(y if gate is None else _squeeze_excite(y, gate), width, 1)
    return keras.layers.Add()([x, y]) if x.shape == y.shape else y


def inverted_residuals(
    x: Any,
    activation: str,
    gate: str | None = None,
    stages: tuple[tuple[int, int], ...] = ((24, 2), (24, 1), (40, 1), (40, 1)),
) -> Any:
    """A stem, a block for each `(width, stride)` of the stages, and a last 1x1 convolution."""
    x = keras.layers.Activation(activation)(_conv(x, 16, stride=2))
    for width, stride in stages:
        x = _inverted_residual(x, width, stride, activation, gate)
    return keras.layers.Activation(activation)(_conv(x, 96, 1))


def _mobilenet_v2(x: Any) -> Any:
    return inverted_residuals(x, "relu6")


def _mobilenet_v3(x: Any) -> Any:
    return inverted_residuals(x, "hard_swish", "hard_sigmoid")


def _efficientnet(x: Any) -> Any:
    return inverted_residuals(x, "swish", "sigmoid")


def _resnet_v2(x: Any) -> Any:
    x = keras.layers.Conv2D(24, 3, 2, padding="same")(x)
    for width, stride in ((24, 1), (48, 2), (48, 1)):
        y = before = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
        y = keras.layers.ReLU()(_conv(y, width, stride=stride))
        y = keras.layers.Conv2D(width, 3, padding="same")(y)
        if y.shape != x.shape:
            x = keras.layers.Conv2D(width, 1, stride)(before)
        x = keras.layers.Add()([x, y])
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))


def _densenet(x: Any) -> Any:
    x = keras.layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(x)
    for block in range(2):
        for _ in range(3):
            y = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
            y = keras.layers.ReLU()(_conv(y, 32, 1))
            y = keras.layers.Conv2D(12, 3, padding="same", use_bias=False)(y)
            x = keras.layers.Concatenate()([x, y])
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
        if block == 0:
            x = keras.layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(x)
            x = keras.layers.AveragePooling2D(2)(x)
    return x


def _convnext(x: Any) -> Any:
    x = keras.layers.Conv2D(32, 4, 4)(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    for _ in range(3):
        y = keras.layers.DepthwiseConv2D(7, padding="same")(x)
        y = keras.layers.LayerNormalization(epsilon=1e-6)(y)
        y = keras.layers.Dense(128, activation="gelu")(y)
        x = keras.layers.Add()([x, keras.layers.Dense(32)(y)])
    return x


BLOCKS = {
    "MobileNetV2": _mobilenet_v2,
    "MobileNetV3": _mobilenet_v3,
    "ResNetV2": _resnet_v2,
    "DenseNet": _densenet,
    "EfficientNet": _efficientnet,
    "ConvNeXt": _convnext,
}


def small_network(name: str, shape: tuple[int, ...], seed: int = 0) -> keras.Model:
    """Some blocks of a family, 10 logits; untrained.

    Args:
      name: in `BLOCKS`.
      shape: of an image.
      seed: of the weights.
    """
    keras.utils.set_random_seed(seed)
    image = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(BLOCKS[name](image))
    return keras.Model(image, keras.layers.Dense(10)(x), name=name.lower())

"""Models of layers of a user's own, as people write them: most without a `build()`."""

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers
ops = keras.ops
FACTOR = 2.0


class TransformerBlock(layers.Layer):
    """keras.io's, of "Text classification with Transformer"."""

    def __init__(self, dim=8, heads=2, hidden=16, **kwargs):
        super().__init__(**kwargs)
        self.sizes = {"dim": dim, "heads": heads, "hidden": hidden}
        self.att = layers.MultiHeadAttention(num_heads=heads, key_dim=dim)
        self.ffn = keras.Sequential([layers.Dense(hidden, activation="relu"), layers.Dense(dim)])
        self.layernorm1 = layers.LayerNormalization()
        self.layernorm2 = layers.LayerNormalization()
        self.dropout = layers.Dropout(0.1)

    def call(self, inputs):
        attended = self.layernorm1(inputs + self.dropout(self.att(inputs, inputs)))
        return self.layernorm2(attended + self.ffn(attended))

    def get_config(self):
        return {**super().get_config(), **self.sizes}


class Shaped(layers.Layer):
    """Says its output's shape, so that Keras asks its call nothing."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units, activation="relu")

    def call(self, x):
        return self.dense(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Several(layers.Layer):
    """Layers in a list and a dict, one of its own, and one that it never calls."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stack = [layers.Dense(8), layers.Dense(8)]
        self.ways = {"short": layers.Dense(8), "long": Shaped()}
        self.never = layers.Dense(8)

    def call(self, x):
        for one in self.stack:
            x = one(x)
        return self.ways["short"](x) + self.ways["long"](x)


class Token(layers.Layer):
    """A weight from `build()`, and a layer that the first call builds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(8)

    def build(self, shape):
        self.token = self.add_weight(shape=(shape[-1],), initializer="normal", name="token")
        super().build(shape)

    def call(self, x):
        return self.dense(x + self.token)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 8)


class Cross(layers.Layer):
    """Called with more than a tensor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query, self.key = layers.Dense(8), layers.Dense(8)
        self.dropout = layers.Dropout(0.5)

    def call(self, x, context, scale=1.0, training=None, mask=None):
        return self.dropout(self.query(x) + scale * self.key(context), training=training)


class Around(layers.Layer):
    """Another layer in its config."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner(x) * FACTOR

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})


class Words(layers.Layer):
    """Attributes with names that Keras knows, and values that only this layer understands."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.activation, self.kernel_size, self.strides, self.padding = "relu", 3, 2, 1
        self.units, self.axis, self.dilation_rate, self.groups = "8", "time", "x", "two"
        self.filters, self.scale, self.data_format, self.use_bias = None, "big", 7, "no"
        self.kernel, self.gamma, self.mask_value, self.input_dim = 5, "g", "m", "i"
        self.interpolation, self.output_mode, self.epsilon, self.layer = None, 3, "tiny", 3
        self.dense = layers.Dense(8)

    def call(self, x):
        return ops.relu(self.dense(x))


class Active(layers.Layer):
    """A layer for an activation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.activation = layers.ReLU()
        self.dense = layers.Dense(8)

    def call(self, x):
        return self.activation(self.dense(x))


class Body(keras.Model):
    """A subclassed model as a layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(8), Shaped()

    def call(self, x, training=None):
        return self.second(self.first(x))

    def get_config(self):
        return {"name": self.name}


def local_class():
    """A layer of a class that no import finds, in another such layer's config."""

    class Hidden(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(8)

        def call(self, x):
            return self.dense(x)

    return Around(Hidden())


def chain(layer, shape=(8,)):
    """`layer` between two of Keras' own, all weights at random."""
    inputs = keras.Input(shape)
    x = layers.Dense(8, name="head")(layer(layers.Dense(8, name="stem")(inputs)))
    model = keras.Model(inputs, x)
    # What says its output's shape is built by numbers alone.
    model(np.zeros((1, *shape), "float32"))
    return randomised(model)


def shared():
    """One layer of one's own, called twice."""
    layer, inputs = Shaped(), keras.Input((8,))
    return randomised(keras.Model(inputs, layer(layer(layers.Dense(8)(inputs)))))


def cross(**how):
    """A layer called on two tensors."""
    inputs = keras.Input((8,))
    first, second = layers.Dense(8, name="a")(inputs), layers.Dense(8, name="b")(inputs)
    return randomised(keras.Model(inputs, Cross()(first, context=second, **how)))


def nested():
    """Inside a nested model, whose Lambda reads this module."""
    body = keras.Sequential(
        [keras.Input((8,)), Shaped(), layers.Lambda(lambda x: x * FACTOR)], name="body"
    )
    return chain(body)


def randomised(model):
    """The model with random weights everywhere: nothing is right by accident."""
    generator = np.random.default_rng(0)
    model.set_weights([0.4 * generator.normal(size=w.shape) for w in model.get_weights()])
    return model


MODELS = {
    "transformer": lambda: chain(TransformerBlock(), (5, 8)),
    "shape_said": lambda: chain(Shaped()),
    "list_and_dict": lambda: chain(Several()),
    "own_weight": lambda: chain(Token()),
    "two_tensors": lambda: cross(scale=0.5, training=False),
    "layer_in_config": lambda: chain(Around(keras.Sequential([layers.Dense(8), Shaped()]))),
    "odd_attributes": lambda: chain(Words()),
    "activation_layer": lambda: chain(Active()),
    "model_as_layer": lambda: chain(Body()),
    "shared": shared,
    "time_distributed": lambda: chain(layers.TimeDistributed(Token()), (5, 8)),
    "local_class": lambda: chain(local_class()),
    "lambda_of_a_global": lambda: chain(layers.Lambda(lambda x: tf.nn.relu(x) * FACTOR)),
    "activation_of_a_global": lambda: chain(
        layers.Dense(8, activation=lambda x: tf.nn.relu(x) * FACTOR)
    ),
    "lambda_in_time": lambda: chain(
        layers.TimeDistributed(layers.Lambda(lambda x: x * FACTOR)), (5, 8)
    ),
    "nested": nested,
}


def batch_for(model):
    """Random inputs."""
    return np.random.default_rng(1).normal(size=(16, *model.input_shape[1:])).astype("float32")

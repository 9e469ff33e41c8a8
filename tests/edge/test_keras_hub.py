"""keras-hub's networks at fixed length: a file that follows, or an error that names the layer.

Runs where keras-hub is installed, with `-m slow`.
"""

import re

import keras
import numpy as np
import pytest

from keras_distill import edge, transfer

pytestmark = pytest.mark.slow
hub = pytest.importorskip("keras_hub")
models = hub.models
LENGTH = 16
TOKENS = {
    "token_ids": np.random.default_rng(0).integers(1, 30, (8, LENGTH)).astype("int32"),
    "padding_mask": np.repeat([[1] * 12 + [0] * 4], 8, 0).astype("int32"),
}
IMAGES = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
TEXT = {"vocabulary_size": 30, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}
GROUPED = {**TEXT, "num_query_heads": 2, "num_key_value_heads": 1}


def bert():
    tokens = {**TOKENS, "segment_ids": np.zeros((8, LENGTH), "int32")}
    return models.BertBackbone(**TEXT, num_heads=2, max_sequence_length=LENGTH), tokens


def gpt2():
    return models.GPT2Backbone(**TEXT, num_heads=2, max_sequence_length=LENGTH), TOKENS


def llama():
    return models.LlamaBackbone(**GROUPED), TOKENS


def gemma():
    return models.GemmaBackbone(**GROUPED, head_dim=8), TOKENS


def vit():
    sizes = {"image_shape": (32, 32, 3), "patch_size": 8, "hidden_dim": 16, "mlp_dim": 32}
    return models.ViTBackbone(**sizes, num_layers=2, num_heads=2), IMAGES


def mobilenet():
    made = models.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=64,
        input_num_filters=16,
        input_activation="hard_swish",
        output_activation="hard_swish",
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=64,
        image_shape=(32, 32, 3),
    )
    return made, IMAGES


def segformer():
    encoder = models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=(32, 32, 3),
        hidden_dims=[16, 32],
    )
    return models.SegFormerBackbone(image_encoder=encoder, projection_filters=16), IMAGES


@pytest.fixture(
    scope="module",
    params=[bert, gpt2, llama, gemma, vit, mobilenet, segformer],
    ids=lambda f: f.__name__,
)
def case(request):
    """A network of fixed length, inputs, and its answers by output."""
    keras.utils.set_random_seed(0)
    backbone, x = request.param()
    if isinstance(x, dict):
        inputs = {name: keras.Input((LENGTH,), dtype="int32", name=name) for name in x}
    else:
        inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, backbone(inputs))
    return model, x, model(x, training=False)


def follows(found, expected, least):
    pairs = zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True)
    return all(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1] > least for a, b in pairs)


def or_names_the_layer(make):
    """What `make` gives; None where the layer's own config does not rebuild it, which is said."""
    try:
        return make()
    except ValueError as error:
        said = str(error)
    assert re.search(r"The layer '.*' \(keras_hub\..* can't be copied from its config", said)
    return None


def test_the_graph_is_known(case):
    model, _, _ = case
    assert edge.inspect(model).rows
    assert len(transfer.blocks(model)) >= 2


def test_copies_answer_alike(case):
    model, x, expected = case
    pruned = or_names_the_layer(lambda: edge.prune(model, 0.5, begin_step=10))
    if pruned is not None:
        assert follows(pruned(x, training=False), expected, 0.99999)


def test_a_float_file_gives_the_same(case, tmp_path):
    model, x, expected = case
    export = edge.export_tflite(model, tmp_path / "float.tflite")
    assert follows(edge.load_tflite(export).predict(x), expected, 0.99999)


def test_a_file_of_integers_follows(case, tmp_path):
    model, x, expected = case
    small = or_names_the_layer(lambda: edge.quantize_aware(model, calibration_data=x))
    source, data = (model, x) if small is None else (small, None)
    export = edge.export_tflite(
        source, tmp_path / "int8.tflite", precision="int8", representative_data=data
    )
    assert follows(edge.load_tflite(export).predict(x), expected, 0.98)

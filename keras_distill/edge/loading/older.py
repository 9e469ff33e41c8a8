"""Models of the older generation from their configs, by the closed list and in its safe mode."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_distill import _keras
from keras_distill.edge import legacy
from keras_distill.edge.bridge import closed_list
from keras_distill.edge.bridge.legacy_layer import from_json, scopes

__all__ = ["is_older", "named", "of_checkpoint", "of_hdf5", "of_zip"]


def is_older(version: str | None) -> bool:
    """Whether a Keras before Keras 3 wrote a file: its version's text, None where it has none.

    >>> is_older("2.4.0"), is_older("2.2.4-tf"), is_older("3.15.1")
    (True, True, False)
    """
    return version is not None and version.partition(".")[0] in ("0", "1", "2")


def named(version: str | None) -> str:
    """A Keras by its version."""
    return f"Keras {version}" if version else "an unknown Keras"


def of_hdf5(path: Path, config: dict[str, Any]) -> Any:
    """The tf_keras model of a legacy .h5 file.

    Raises:
      closed_list.RefusedError: the config names what it may not.
      ValueError: the config or the weights are no model's, or don't belong together.
    """
    model = _from_legacy_config(config)
    model.load_weights(str(path))
    return _settled(model)


def of_checkpoint(prefix: Path, config: dict[str, Any]) -> Any:
    """The tf_keras model of a config, with a SavedModel's variables.

    Raises:
      as `of_hdf5`.
    """
    model = _from_legacy_config(config)
    status = tf.train.Checkpoint(root=model).read(str(prefix))
    # An AssertionError names what is missing; what is over is the optimiser's.
    status.assert_existing_objects_matched()
    status.expect_partial()
    return _settled(model)


def of_zip(path: Path, config: dict[str, Any]) -> Any:
    """The tf_keras model of a .keras file that tf_keras wrote.

    Raises:
      as `of_hdf5`.
    """
    model = from_json(json.dumps({**config, "compile_config": None}))
    model.load_weights(str(path))
    return _settled(model)


def _from_legacy_config(config: dict[str, Any]) -> Any:
    with _safely(config):
        return legacy.tf_keras().models.model_from_config(_keras.legacy.decoded(config))


@contextlib.contextmanager
def _safely(config: dict[str, Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(scopes(json.dumps(config)))
        stack.enter_context(_keras.legacy.safe_mode_scope(True))
        named = closed_list.check(config)
        stack.enter_context(legacy.tf_keras().saving.custom_object_scope(named))
        yield


def _settled(model: Any) -> Any:
    for layer in model.submodules:
        # A Normalization answers by a copy of its statistics.
        if isinstance(layer, legacy.tf_keras().layers.Layer):
            layer.finalize_state()
    return model

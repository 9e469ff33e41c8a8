"""A SavedModel of a tf_keras model: its config and its variables, and none of its functions.

tf_keras' own loading revives whatever it does not know from the functions in the file, which may
read and write files when they are called. Here the config makes the layers, or it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import message

from keras_distill import _json, _keras
from keras_distill._pages import see
from keras_distill.edge.loading import older

__all__ = ["Saved", "is_one", "read"]

_WAYS_OUT = (
    "Expected one that model.save(folder) of a tf_keras Functional or Sequential model wrote. Its "
    "functions can still teach: tf.saved_model.load(folder).signatures['serving_default']."
    f"{see('older files')}"
)
_GRAPHS = ("Functional", "Model", "Sequential")


@dataclass(frozen=True)
class Saved:
    """A tf_keras model from a SavedModel, the Keras that wrote it, and what was left behind."""

    model: Any
    version: str | None
    leaves: tuple[str, ...]


def is_one(path: Path) -> bool:
    """Whether a folder is that of a SavedModel."""
    return (path / "saved_model.pb").is_file()


def read(path: Path) -> Saved:
    """The model of a SavedModel.

    Raises:
      ValueError: damaged, no Keras model's, or a subclassed one's.
    """
    try:
        root = _keras.legacy.saved_metadata(path)
    except message.DecodeError as error:
        raise ValueError(
            "what it notes of its layers is cut off or damaged: copy it again"
        ) from error
    if root is None:
        raise ValueError(
            f"it is a SavedModel of functions alone, as model.export() and tf.saved_model.save() "
            f"write it: no Keras model can be made of it. {_WAYS_OUT}"
        )
    found = _json.loads(root)
    kind, config = found.get("class_name"), found.get("config")
    is_graph = found.get("is_graph_network") or kind in _GRAPHS
    if not is_graph or not isinstance(config, dict) or "layers" not in config:
        raise ValueError(
            f"it is a SavedModel of a subclassed model, {kind}, whose layers only its own class "
            f"knows: make the model and call model.load_weights(folder). {_WAYS_OUT}"
        )
    if kind not in _GRAPHS:
        # A class of the user's own, made of a graph: the graph is all that there is to it.
        kind = "Functional" if "input_layers" in config else "Sequential"
    prefix = path / "variables" / "variables"
    if not prefix.with_suffix(".index").is_file():
        raise ValueError("its folder has no variables/variables.index: copy the whole folder")
    model = older.of_checkpoint(prefix, {"class_name": kind, "config": config})
    trained = found.get("training_config") is not None
    leaves = ("the optimiser's state",) if trained else ()
    return Saved(model, found.get("keras_version"), leaves)

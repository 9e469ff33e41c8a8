"""What of a distiller goes into a file: signals' shapes, functions by name, random state."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_distill import _files, _keras
from keras_distill.objectives.base import layer_name
from keras_distill.signals import Signals
from keras_distill.teachers.base import Absent, Teacher

__all__ = [
    "WholeFiles",
    "arguments_of_config",
    "check_signals",
    "config_of",
    "read_state",
    "revive",
    "seed_states",
    "write_state",
]


class WholeFiles(keras.Model):
    """A model whose files appear whole or not at all, and hold no lambda's code."""

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """As `keras.Model.save`; the file holds no teacher, and appears whole or not at all.

        Raises:
          ValueError: something that can't be saved (a lambda); nothing was written.
        """
        refuse_lambdas(keras.saving.serialize_keras_object(self))
        path, zipped = os.fspath(filepath), kwargs.get("zipped") is not False
        if os.path.exists(path) and not overwrite:
            raise FileExistsError(f"{path} exists. Give overwrite=True to replace it.")
        if "://" in path or path.endswith(".keras") != zipped:
            # Keras uploads what goes elsewhere, and refuses the rest by its name.
            super().save(filepath, overwrite=overwrite, **kwargs)
            return
        with (_files.whole if zipped else _files.whole_folder)(path) as fresh:
            super().save(fresh, **kwargs)

    def save_weights(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """As `keras.Model.save_weights`; each file appears whole or not at all."""
        path, sharded = os.fspath(filepath), kwargs.get("max_shard_size") is not None
        asks = os.path.exists(path) and not overwrite
        if (
            asks
            or "://" in path
            or not path.endswith(".weights.json" if sharded else ".weights.h5")
        ):
            # Keras asks, uploads, refuses by name, or warns that it takes another name.
            super().save_weights(filepath, overwrite=overwrite, **kwargs)
            return
        with _files.whole(path) as fresh:
            super().save_weights(fresh, **kwargs)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.load_weights`, the optimiser's state included.

        Keras skips the state of an optimiser that has not made a step yet, with a warning.
        """
        if self.compiled and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        super().load_weights(filepath, *args, **kwargs)


def write_state(
    store: Any, seeds: Sequence[Any], teacher: Sequence[Any], epochs: int | None
) -> None:
    """Into a weight file, what Keras leaves out of it.

    Args:
      store: of the model's own variables, as `save_own_variables` gets it.
      seeds: the seed generators' states, without which a Dropout would resume elsewhere.
      teacher: the variables of a teacher that training moves: its noise, its moving average.
      epochs: how many a fit with a backup has behind it, or None.
    """
    for kind, states in (("seed", seeds), ("teacher", teacher)):
        for index, state in enumerate(states):
            store[f"{kind}_{index}"] = keras.ops.convert_to_numpy(state)
    if epochs is not None:
        store["epochs"] = np.asarray(epochs, "int64")


def read_state(store: Any, seeds: Sequence[Any], teacher: Teacher) -> int | None:
    """Take up what `write_state` wrote; of an absent teacher it is kept until one is given.

    Returns:
      The epochs.

    Raises:
      ValueError: it is the state of other models.
    """
    held = {key: store[key] for key in store.keys()}  # noqa: SIM118
    of_seeds, of_teacher = _numbered(held, "seed"), _numbered(held, "teacher")
    if isinstance(teacher, Absent):
        teacher.held, of_teacher = [array[...] for array in of_teacher], []
    _check_count(of_seeds, seeds, "seed generators' states", "student")
    _check_count(of_teacher, teacher.state, "states of a teacher that training moves", "teacher")
    states = zip((*seeds, *teacher.state), (*of_seeds, *of_teacher), strict=True)
    for state, array in states:
        state.assign(array)
    return int(held["epochs"][()]) if "epochs" in held else None


def config_of(arguments: Mapping[str, Any], teacher_spec: Signals) -> dict:
    """A distiller's arguments as Keras saves them, its teacher's shapes in place of its teacher.

    Raises:
      ValueError: among the preprocessing functions a lambda, which could only be saved as code, or
        an object without a name or a `get_config`.
    """
    for name, value in arguments.items():
        if not name.endswith("_preprocess") or value is None or hasattr(value, "get_config"):
            continue
        known_as = getattr(value, "__name__", None)
        if known_as in (None, "<lambda>"):
            said = "a lambda" if known_as else repr(value)
            raise ValueError(
                f"{name} is {said}, and a file holds no code. Write a named function and "
                f"register it with @keras.saving.register_keras_serializable()."
            )
    saved = {key: keras.saving.serialize_keras_object(one) for key, one in arguments.items()}
    return {**saved, "teacher_spec": signals_to_config(teacher_spec)}


def arguments_of_config(config: Mapping[str, Any], custom_objects: dict | None) -> dict:
    """A distiller's arguments, of what `config_of` gave; its teacher is `Absent`."""
    parts = ("student", "objectives", "label_weight", "student_preprocess", "teacher_preprocess")
    arguments = {**config, **revive(config, parts, custom_objects)}
    spec = signals_from_config(arguments.pop("teacher_spec"))
    return {**arguments, "teacher": Absent(spec)}


def check_signals(found: Signals, expected: Signals) -> None:
    """ValueError where a teacher's outputs are not those that a distiller was built with."""
    came, wanted = signals_to_config(found), signals_to_config(expected)
    if came != wanted:
        raise ValueError(
            f"This teacher's outputs are not those the distiller was built with.\n"
            f"expected: {wanted}\ngot:      {came}"
        )


def _check_count(held: Sequence[Any], states: Sequence[Any], words: str, whose: str) -> None:
    if len(held) != len(states):
        raise ValueError(
            f"The checkpoint holds {len(held)} {words} and this distiller's {whose} has "
            f"{len(states)}: it is another {whose}'s."
        )


def _numbered(held: Mapping[str, Any], kind: str) -> list[Any]:
    names = [key for key in held if key.startswith(f"{kind}_")]
    return [held[name] for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]))]


def signals_to_config(signals: Signals) -> dict:
    """Shapes and dtypes of Signals, in JSON's types."""
    return {
        "heads": [
            {
                "name": name,
                **_spec(head.logits),
                "from_probabilities": head.kind == "probabilities",
                "from_sigmoid": head.kind == "sigmoid",
            }
            for name, head in signals.heads.items()
        ],
        "taps": {layer_name(key): _spec(tensor) for key, tensor in signals.taps.items()},
    }


def signals_from_config(config: Mapping[str, Any]) -> Signals:
    """Signals of `keras.KerasTensor`s that `signals_to_config` described."""
    taps = {key: _tensor(spec) for key, spec in config["taps"].items()}
    heads = {head["name"]: head for head in config["heads"]}
    return Signals(
        {name: _tensor(head) for name, head in heads.items()},
        taps,
        {name: head["from_probabilities"] for name, head in heads.items()},
        {name: head["from_sigmoid"] for name, head in heads.items()},
    )


def revive(config: Mapping, keys: Sequence[str], custom_objects: dict | None) -> dict:
    """The objects that a config holds under these keys."""
    read = keras.saving.deserialize_keras_object
    return {key: read(config[key], custom_objects) for key in keys}


def refuse_lambdas(config: Any) -> None:
    """ValueError where a serialised object holds a lambda's code."""
    if isinstance(config, Mapping):
        if config.get("class_name") == "__lambda__":
            raise ValueError(
                "The student or an objective holds a lambda, and a file holds no code: safe mode "
                "would refuse to load it. Write a named function and register it with "
                "@keras.saving.register_keras_serializable()."
            )
        for value in config.values():
            refuse_lambdas(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            refuse_lambdas(value)


def seed_states(model: keras.Model) -> list:
    """The state variable of every seed generator below `model`, in a stable order."""
    layers = _keras.layers_of(model, itself=False)
    states = [g.state for layer in layers for g in _keras.seed_generators(layer)]
    return list({id(state): state for state in states}.values())


def _spec(tensor: Any) -> dict:
    return {"shape": list(tensor.shape), "dtype": keras.backend.standardize_dtype(tensor.dtype)}


def _tensor(spec: Mapping[str, Any]) -> keras.KerasTensor:
    return keras.KerasTensor(tuple(spec["shape"]), dtype=spec["dtype"])

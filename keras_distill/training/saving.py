"""What of a distiller goes into a file: signals' shapes, functions by name, random state."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_distill import _files, _keras
from keras_distill.objectives.base import layer_name
from keras_distill.signals import Signals
from keras_distill.teachers.base import Absent, Teacher
from keras_distill.teachers.model import as_teacher

__all__ = [
    "Held",
    "SavedWithoutTeacher",
    "function_to_config",
    "refuse_lambdas",
    "revive",
    "seed_states",
    "signals_from_config",
    "signals_to_config",
]


class SavedWithoutTeacher(keras.Model):
    """Files that hold all of a model's state, seed generators too, and appear whole or not at all.

    Keras' own weight files omit the seed generators, and a Dropout would resume elsewhere.
    """

    student: keras.Model
    _teacher: Teacher
    _teacher_spec: "Held"
    _objectives: list
    _label_weight: Any
    _student_preprocess: Callable | None
    _teacher_preprocess: Callable | None
    _student_output: str
    epochs_behind: int | None = None
    epochs_loaded: int | None = None

    def save_own_variables(self, store: Any) -> None:
        """Every seed generator's state: Keras' weight files omit them, and a Dropout needs them.

        Besides what moves of the teacher, and how many epochs a fit with a backup has behind it.
        """
        for index, state in enumerate(seed_states(self)):
            store[f"seed_{index}"] = keras.ops.convert_to_numpy(state)
        for index, state in enumerate(self.teacher_state()):
            store[f"teacher_{index}"] = keras.ops.convert_to_numpy(state)
        if self.epochs_behind is not None:
            store["epochs"] = np.asarray(self.epochs_behind, "int64")

    def teacher_state(self) -> tuple:
        """The variables of a teacher that training moves: its noise, its moving average."""
        return ()

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.load_weights`, the optimiser's state included.

        Keras skips the state of an optimiser that has not made a step yet, with a warning.
        """
        if self.compiled and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        super().load_weights(filepath, *args, **kwargs)

    def load_own_variables(self, store: Any) -> None:
        """Take the seed generators up where they were.

        Without its teacher, what a file holds of it is kept until one is given.
        """
        if isinstance(self._teacher, Absent):
            store = {key: store[key] for key in store.keys()}  # noqa: SIM118
            names = sorted(
                (key for key in store if key.startswith("teacher_")),
                key=lambda key: int(key.rpartition("_")[2]),
            )
            self._teacher.held = [store.pop(name)[...] for name in names]
        kinds = {
            "seed": (seed_states(self), "seed generators' states", "student"),
            "teacher": (self.teacher_state(), "states of a teacher that training moves", "teacher"),
        }
        for kind, (states, words, whose) in kinds.items():
            held = [key for key in store.keys() if key.startswith(f"{kind}_")]  # noqa: SIM118
            if len(held) != len(states):
                raise ValueError(
                    f"The checkpoint holds {len(held)} {words} and this distiller's {whose} has "
                    f"{len(states)}: it is another {whose}'s."
                )
        for kind, (states, _, _) in kinds.items():
            for index, state in enumerate(states):
                state.assign(store[f"{kind}_{index}"])
        self.epochs_loaded = int(store["epochs"][()]) if "epochs" in set(store.keys()) else None

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

    def get_config(self) -> dict:
        """What rebuilds this distiller, its teacher's shapes in place of its teacher.

        Raises:
          ValueError: a lambda among the preprocessing functions.
        """
        serialize = keras.saving.serialize_keras_object
        return {
            "student": serialize(self.student),
            "objectives": [serialize(o) for o in self._objectives],
            "label_weight": serialize(self._label_weight),
            "student_preprocess": function_to_config(
                self._student_preprocess, "student_preprocess"
            ),
            "teacher_preprocess": function_to_config(
                self._teacher_preprocess, "teacher_preprocess"
            ),
            "student_output": self._student_output,
            "name": self.name,
            "teacher_spec": signals_to_config(self._teacher_spec.signals),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Any:
        """A distiller without its teacher: it evaluates and predicts."""
        functions = ("student_preprocess", "teacher_preprocess")
        revived = revive(
            config, ("student", "objectives", "label_weight", *functions), custom_objects
        )
        config = {**config, **revived}
        spec = signals_from_config(config.pop("teacher_spec"))
        return cls(teacher=Absent(spec), **config)

    @staticmethod
    def load(path: Any, teacher: Any, custom_objects: dict | None = None) -> Any:
        """A saved distiller with its teacher back, ready to train on.

        Args:
          path: a `.keras` file that `save` wrote.
          teacher: as the constructor takes it.
          custom_objects: as `keras.saving.load_model` takes them.

        Raises:
          ValueError: the teacher's outputs are not those the distiller was built with.
        """
        distiller = keras.saving.load_model(path, custom_objects=custom_objects)
        distiller._attach(as_teacher(teacher))
        return distiller

    def _attach(self, teacher: Teacher) -> None:
        found = signals_to_config(self._built_teacher(teacher))
        expected = signals_to_config(self._teacher_spec.signals)
        if found != expected:
            raise ValueError(
                f"This teacher's outputs are not those the distiller was built with.\n"
                f"expected: {expected}\ngot:      {found}"
            )
        held = self._teacher.held if isinstance(self._teacher, Absent) else []
        # A teacher that did not learn in the file's training begins to now.
        for variable, value in zip(teacher.state, held, strict=False):
            variable.assign(value)
        self._teacher = teacher
        self.train_function = self.test_function = None


class Held:
    """Keeps Signals where Keras' attribute tracking does not look into them."""

    def __init__(self, signals: Signals):
        self.signals = signals


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


def function_to_config(function: Callable | None, argument: str) -> Any:
    """A preprocessing function, serialised by its registered name.

    Raises:
      ValueError: a lambda, which could only be saved as code.
    """
    if getattr(function, "__name__", "") == "<lambda>":
        raise ValueError(
            f"{argument} is a lambda, and a file holds no code. Write a named function and "
            f"register it with @keras.saving.register_keras_serializable()."
        )
    return keras.saving.serialize_keras_object(function)


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

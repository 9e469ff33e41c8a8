"""What of a distiller goes into a file: signals' shapes, functions by name, random state."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_distill.objectives.base import Signals

__all__ = [
    "function_to_config",
    "refuse_lambdas",
    "seed_states",
    "signals_from_config",
    "signals_to_config",
]


def signals_to_config(signals: Signals) -> dict:
    """Shapes and dtypes of Signals, in JSON's types."""
    heads = signals.heads or (None,)
    return {
        "heads": [
            {
                "name": head,
                **_spec(signals.head(head).logits),
                "from_probabilities": signals.head(head).from_probabilities,
            }
            for head in heads
        ],
        "taps": {_tap_name(key): _spec(tensor) for key, tensor in signals.taps.items()},
    }


def signals_from_config(config: Mapping[str, Any]) -> Signals:
    """Signals of `keras.KerasTensor`s that `signals_to_config` described."""
    taps = {key: _tensor(spec) for key, spec in config["taps"].items()}
    heads = config["heads"]
    if len(heads) == 1 and heads[0]["name"] is None:
        return Signals(_tensor(heads[0]), taps, heads[0]["from_probabilities"])
    return Signals(
        {head["name"]: _tensor(head) for head in heads},
        taps,
        {head["name"]: head["from_probabilities"] for head in heads},
    )


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
    layers = model._flatten_layers(include_self=False)
    states = [g.state for layer in layers for g in getattr(layer, "_seed_generators", ())]
    return list({id(state): state for state in states}.values())


def _spec(tensor: Any) -> dict:
    return {"shape": list(tensor.shape), "dtype": keras.backend.standardize_dtype(tensor.dtype)}


def _tensor(spec: Mapping[str, Any]) -> keras.KerasTensor:
    return keras.KerasTensor(tuple(spec["shape"]), dtype=spec["dtype"])


def _tap_name(key: Any) -> str:
    return key if isinstance(key, str) else key.name

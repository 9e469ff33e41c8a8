"""What may happen to the data between the world and a model."""

from keras_distill.judging.conditions.attacks import FGSM, PGD
from keras_distill.judging.conditions.base import Condition, Corruption
from keras_distill.judging.conditions.data import Clean, Unseen
from keras_distill.judging.conditions.images import (
    JPEG,
    Blur,
    Brightness,
    Contrast,
    ImageNoise,
    Occlusion,
    Pixelation,
    Rotation,
    image_corruptions,
)
from keras_distill.judging.conditions.signals import Gain, Shift, SignalNoise, signal_corruptions
from keras_distill.judging.conditions.tables import (
    ColumnNoise,
    MissingCells,
    ShiftedColumns,
    table_corruptions,
)
from keras_distill.judging.conditions.tokens import (
    DroppedTokens,
    SwappedTokens,
    token_corruptions,
)

__all__ = [
    "FGSM",
    "JPEG",
    "PGD",
    "Blur",
    "Brightness",
    "Clean",
    "ColumnNoise",
    "Condition",
    "Contrast",
    "Corruption",
    "DroppedTokens",
    "Gain",
    "ImageNoise",
    "MissingCells",
    "Occlusion",
    "Pixelation",
    "Rotation",
    "Shift",
    "ShiftedColumns",
    "SignalNoise",
    "SwappedTokens",
    "Unseen",
    "image_corruptions",
    "signal_corruptions",
    "table_corruptions",
    "token_corruptions",
]

"""What a student learned of its teacher, and what it did not, to see."""

from keras_distill.explaining.comparing import explain
from keras_distill.explaining.explanation import Explanation
from keras_distill.explaining.numbers import LostNumber, NumberErrors, NumbersExplanation
from keras_distill.explaining.record import ClassChange, LostExample, ModelAnswers
from keras_distill.explaining.similarity import Similarity

# No module here is called explain: importing it would put it in the function's place.
__all__ = [
    "ClassChange",
    "Explanation",
    "LostExample",
    "LostNumber",
    "ModelAnswers",
    "NumberErrors",
    "NumbersExplanation",
    "Similarity",
    "explain",
]

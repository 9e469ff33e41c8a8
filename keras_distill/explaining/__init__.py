"""What a student learned of its teacher, and what it did not, to see."""

from .comparing import explain
from .record import ClassChange, Explanation, LostExample, ModelAnswers
from .similarity import Similarity

# No module here is called explain: importing it would put it in the function's place.
__all__ = [
    "ClassChange",
    "Explanation",
    "LostExample",
    "ModelAnswers",
    "Similarity",
    "explain",
]

"""What a model's output means: logits, a distribution over the classes, or a yes or no each."""

from keras_distill.signals.meaning.kinds import kind_of
from keras_distill.signals.meaning.logits import logits_behind

__all__ = ["kind_of", "logits_behind"]

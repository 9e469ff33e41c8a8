"""What a model says of a batch: its answer, of which kind that is, and its layers' outputs."""

from keras_distill.signals.signals import Head, Signals

__all__ = ["Head", "Signals"]

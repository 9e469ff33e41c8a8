"""keras_distill: from a large Keras teacher to a small student, verified inside its .tflite."""

__version__ = "0.1.0"

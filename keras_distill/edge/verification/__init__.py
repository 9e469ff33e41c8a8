"""Whether a .tflite still answers as its model."""

"""A Keras model written as a .tflite that was opened and run before it takes its place."""

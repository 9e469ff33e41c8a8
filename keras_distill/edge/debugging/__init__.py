"""Where a .tflite leaves its model, layer by layer."""

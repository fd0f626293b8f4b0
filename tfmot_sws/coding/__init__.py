"""The `.sws` format: tensors and text to bytes and back, without Keras."""

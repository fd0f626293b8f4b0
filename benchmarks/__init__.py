"""Benchmarks of size, accuracy and speed; README.md says what each shows and how to run it."""

import os

# Set before a benchmark imports TensorFlow, whose start-up messages say nothing here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

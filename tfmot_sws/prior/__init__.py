"""The Gaussian mixture over the weights: values, trainable prior, assignment, snap, density.

Owns the mathematics of soft weight-sharing; knows tensors and no models. Imports `backend`.
"""

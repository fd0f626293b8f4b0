"""What differs between Keras' backends: compiling, gradients, loops, sums over bins, packing.

Owns every use of TensorFlow, JAX and torch in the training graph. Imports no other room.
"""

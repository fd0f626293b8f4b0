"""Reading and rebuilding Keras models, of Keras 3 and of tf_keras alike.

Owns the record of each library, the walk over layers, the choice of weights, BatchNorm
folding and codebooks. Imports no other room; one lazy door opens the tf_keras adapter.
"""

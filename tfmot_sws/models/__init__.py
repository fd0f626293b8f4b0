"""Reading and rebuilding Keras models, of Keras 3 and of tf_keras alike.

Owns the record of each library, the walk over layers, the choice of weights, BatchNorm
folding and codebooks. One lazy door opens the tf_keras adapter. Imports no other room.
"""

"""Soft weight-sharing for tf_keras (Keras 2) models, and with it for pipelines of tfmot.

Imported only when a tf_keras model arrives. The mixture, its training and its merging are
those for Keras 3: this package holds what differs between the two, which is how weights
are put into a model's call, and how a model is rebuilt and stored.
"""

"""Soft weight-sharing for tf_keras (Keras 2) models: wrappers, and the record of the library.

Owns every import of tf_keras, and is imported only once a tf_keras model arrives: the one
lazy door is `models.libraries`. Imports `training`, `models`, `backend`.
"""

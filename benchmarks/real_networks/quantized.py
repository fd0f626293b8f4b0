"""Clustering without a prior: training with each weight at the nearest of a few values."""

import keras
import numpy as np
from keras import ops
from sklearn.cluster import KMeans

import tfmot_sws as sws

# With fewer weights for each value a codebook costs more than it saves.
FEWEST_A_VALUE = 4
KMEANS_ROUNDS = 20


class ClusteredTraining(keras.Model):
    """A model that trains with clustered weights, the gradient passed straight through.

    The kernels of a layer share `num_values` values, and so do the biases that soft
    weight-sharing would share. A step sees every weight at the nearest of them and moves
    the weight itself. k-means fits the values again before each epoch.

    Args:
        inner: the pretrained model, whose own variables are trained.
        num_values: greatest number of values a layer.
    """

    def __init__(self, inner, num_values):
        super().__init__()
        self.inner = inner
        self.layers_weights = [
            weights for weights in weights_by_layer(inner) if _are_enough(weights, num_values)
        ]
        self.codebooks = [
            self.add_weight(shape=(num_values,), initializer="zeros", trainable=False)
            for _ in self.layers_weights
        ]
        for weights, codebook in zip(self.layers_weights, self.codebooks, strict=True):
            flat = flatten(weights)
            codebook.assign(np.linspace(flat.min(), flat.max(), num_values))

    def call(self, inputs, training=None):
        """Calls the model."""
        return self.inner(inputs, training=training)

    def train_step(self, data):
        """Keras' step on the clustered weights, to which their distances are added again."""
        moves = [(weight, weight - near, near) for weight, near in self._pairs()]
        for weight, _, near in moves:
            weight.assign(near)
        logs = super().train_step(data)
        for weight, distance, _ in moves:
            weight.assign_add(distance)
        return logs

    def fit_codebooks(self):
        """One k-means a layer, from its present values on."""
        for weights, codebook in zip(self.layers_weights, self.codebooks, strict=True):
            codebook.assign(fit_codebook(flatten(weights), ops.convert_to_numpy(codebook)))

    def settle(self):
        """Puts the weights at their values for good."""
        for weight, near in self._pairs():
            weight.assign(near)

    def _pairs(self):
        """Each weight that is clustered, and the nearest values."""
        return [
            (weight, nearest(weight, codebook))
            for weights, codebook in zip(self.layers_weights, self.codebooks, strict=True)
            for weight in weights
        ]


class FitCodebooks(keras.callbacks.Callback):
    """Fits the values of a `ClusteredTraining` again before each epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        """One k-means a layer."""
        self.model.fit_codebooks()


def weights_by_layer(model):
    """The variables that soft weight-sharing would share, those of one layer together."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    layers = {}
    choices = sws.apply_soft_weight_sharing(copy).weight_choices
    for weight, choice in zip(model.weights, choices, strict=True):
        if choice.shared:
            layers.setdefault(choice.path.rpartition("/")[0], []).append(weight)
    return list(layers.values())


def flatten(weights):
    """All entries of some variables, shape (n,)."""
    return np.concatenate([ops.convert_to_numpy(weight).reshape(-1) for weight in weights])


def _are_enough(weights, num_values):
    return flatten(weights).size >= FEWEST_A_VALUE * num_values


def nearest(weight, codebook):
    """For each entry the nearest value of an ascending codebook, shape (values,)."""
    borders = (codebook[1:] + codebook[:-1]) / 2
    flat = ops.reshape(weight, (-1,))
    return ops.reshape(ops.take(codebook, ops.searchsorted(borders, flat)), weight.shape)


def fit_codebook(weights, start):
    """The values of k-means over weights, both of shape (n,), ascending."""
    kmeans = KMeans(len(start), init=start[:, None], n_init=1, max_iter=KMEANS_ROUNDS)
    return np.sort(kmeans.fit(weights[:, None]).cluster_centers_[:, 0])

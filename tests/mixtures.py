"""Mixtures for tests, as values and as tensors."""

import numpy as np
import tensorflow as tf

from tfmot_sws.prior.density import MixtureTensors
from tfmot_sws.prior.mixture import GaussianMixture


def random_mixture(generator, num_components=7):
    means = np.concatenate([[0.0], generator.uniform(-1, 1, num_components - 1)])
    stddevs = np.exp(generator.uniform(np.log(0.01), 0.0, num_components))
    return GaussianMixture(means, stddevs, generator.dirichlet(np.ones(num_components)))


def as_tensors(mixture):
    fields = mixture.means, np.log(mixture.precisions), np.log(mixture.mixing_proportions)
    return MixtureTensors(*(tf.constant(field, tf.float32) for field in fields))


def as_widths(width, num_tensors=1):
    """The same width for each tensor, as `assign` takes them; 0 stands for components' own."""
    return [tf.constant(width)] * num_tensors if width else []

"""Draws soft weight-sharing with matplotlib, and writes TensorBoard summaries.

Only these modules use matplotlib and tensorboard (the extra `visualization`), and import them
when a function needs them. Imports `models`, `prior`, `training`.
"""

from tfmot_sws.visualization.codebooks import plot_codebook
from tfmot_sws.visualization.curves import plot_history, plot_tradeoff
from tfmot_sws.visualization.histograms import plot_weight_histogram
from tfmot_sws.visualization.layers import plot_layers
from tfmot_sws.visualization.movement import plot_weight_movement
from tfmot_sws.visualization.recorder import WeightMovementRecorder
from tfmot_sws.visualization.weights import read_weights

__all__ = [
    "WeightMovementRecorder",
    "plot_codebook",
    "plot_history",
    "plot_layers",
    "plot_tradeoff",
    "plot_weight_histogram",
    "plot_weight_movement",
    "read_weights",
]

"""Soft weight-sharing for Keras: prune and cluster a model in one ordinary training."""

from tfmot_sws._version import __version__
from tfmot_sws.callbacks import AnnealAndMerge
from tfmot_sws.codebook import ClusteredTensor
from tfmot_sws.hyperpriors import BetaHyperprior, GammaHyperprior
from tfmot_sws.litert import convert_to_tflite, predict_tflite, verify_tflite
from tfmot_sws.mixture import GaussianMixture
from tfmot_sws.model import SoftWeightSharing, apply_soft_weight_sharing
from tfmot_sws.prior import GaussianMixturePrior, LearningRates, PriorOptions
from tfmot_sws.report import CompressionReport, compression_report
from tfmot_sws.selection import WeightChoice
from tfmot_sws.strip import get_codebooks, strip_soft_weight_sharing

__all__ = [
    "AnnealAndMerge",
    "BetaHyperprior",
    "ClusteredTensor",
    "CompressionReport",
    "GammaHyperprior",
    "GaussianMixture",
    "GaussianMixturePrior",
    "LearningRates",
    "PriorOptions",
    "SoftWeightSharing",
    "WeightChoice",
    "__version__",
    "apply_soft_weight_sharing",
    "compression_report",
    "convert_to_tflite",
    "get_codebooks",
    "predict_tflite",
    "strip_soft_weight_sharing",
    "verify_tflite",
]

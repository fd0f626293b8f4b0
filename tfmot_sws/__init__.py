"""Soft weight-sharing for Keras: prune and cluster a model in one ordinary training."""

from typing import Any

from tfmot_sws._version import __version__

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "keras":
        raise

    def __getattr__(name: str) -> Any:
        raise AttributeError(
            f"tfmot_sws.{name} needs Keras, which is not installed. Without it, "
            "tfmot_sws.coding.arrays reads .sws files."
        )

else:
    from tfmot_sws import visualization
    from tfmot_sws.advice import SoftWeightSharingWarning
    from tfmot_sws.coding.errors import CompressedFileError
    from tfmot_sws.coding.model_file import load_compressed, save_compressed
    from tfmot_sws.coding.sizes import CodedSizes, coded_sizes
    from tfmot_sws.litert.converter import ExportError
    from tfmot_sws.litert.export import convert_to_tflite, export, predict_tflite, verify_tflite
    from tfmot_sws.litert.int8_grid import place_on_int8_grid
    from tfmot_sws.litert.verification import Verification
    from tfmot_sws.models.batch_norm import fold_batch_norm
    from tfmot_sws.models.codebook import ClusteredTensor, get_codebooks
    from tfmot_sws.models.selection import WeightChoice
    from tfmot_sws.prior.hyperpriors import BetaHyperprior, GammaHyperprior
    from tfmot_sws.prior.mixture import GaussianMixture
    from tfmot_sws.prior.options import LearningRates, PriorOptions
    from tfmot_sws.prior.trainable import GaussianMixturePrior
    from tfmot_sws.report import CompressionReport, compression_report
    from tfmot_sws.training import schedules
    from tfmot_sws.training.anneal import AnnealAndMerge
    from tfmot_sws.training.apply import apply_soft_weight_sharing
    from tfmot_sws.training.loading import soft_weight_sharing_scope
    from tfmot_sws.training.pareto_front import FrontRecord, ParetoFront
    from tfmot_sws.training.search_result import SearchResult, Trial
    from tfmot_sws.training.sensitivity import measure_sensitivity
    from tfmot_sws.training.sharing_report import SharedTensor, SharingReport, sharing_report
    from tfmot_sws.training.smallest import find_smallest
    from tfmot_sws.training.soft_targets import soft_targets
    from tfmot_sws.training.strip import strip_soft_weight_sharing
    from tfmot_sws.training.wrapper import SoftWeightSharing
    from tfmot_sws.visualization.recorder import WeightMovementRecorder
    from tfmot_sws.visualization.tensorboard import SoftWeightSharingSummaries

__all__ = [
    "AnnealAndMerge",
    "BetaHyperprior",
    "ClusteredTensor",
    "CodedSizes",
    "CompressedFileError",
    "CompressionReport",
    "ExportError",
    "FrontRecord",
    "GammaHyperprior",
    "GaussianMixture",
    "GaussianMixturePrior",
    "LearningRates",
    "ParetoFront",
    "PriorOptions",
    "SearchResult",
    "SharedTensor",
    "SharingReport",
    "SoftWeightSharing",
    "SoftWeightSharingSummaries",
    "SoftWeightSharingWarning",
    "Trial",
    "Verification",
    "WeightChoice",
    "WeightMovementRecorder",
    "__version__",
    "apply_soft_weight_sharing",
    "coded_sizes",
    "compression_report",
    "convert_to_tflite",
    "export",
    "find_smallest",
    "fold_batch_norm",
    "get_codebooks",
    "load_compressed",
    "measure_sensitivity",
    "place_on_int8_grid",
    "predict_tflite",
    "save_compressed",
    "schedules",
    "sharing_report",
    "soft_targets",
    "soft_weight_sharing_scope",
    "strip_soft_weight_sharing",
    "verify_tflite",
    "visualization",
]

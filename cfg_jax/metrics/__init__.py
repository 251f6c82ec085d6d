"""How near are generated images to real ones, and how varied are they?

Distances between sets of features, in float64 NumPy on the host: the Frechet distance (FID, sFID)
from `FeatureStatistics`, the inception score from `ScoreSums`, `precision_recall` from the features
themselves. The first two are streaming sums that can be merged, so that batches, devices and
processes may divide the images in any way. The feature networks are imported by their own names.
"""

from cfg_jax.metrics.frechet import frechet_distance
from cfg_jax.metrics.moments import FeatureStatistics
from cfg_jax.metrics.neighbors import PrecisionRecall, precision_recall
from cfg_jax.metrics.score import InceptionScore, ScoreSums, inception_score
from cfg_jax.metrics.statistics_file import (
    Moments,
    SavedStatistics,
    load_statistics,
    save_statistics,
)

__all__ = [
    "FeatureStatistics",
    "InceptionScore",
    "Moments",
    "PrecisionRecall",
    "SavedStatistics",
    "ScoreSums",
    "frechet_distance",
    "inception_score",
    "load_statistics",
    "precision_recall",
    "save_statistics",
]

"""How close are generated images to real ones, and how diverse are they?

Metrics of feature sets, in float64 NumPy on the host: the Frechet distance (FID, sFID) from
`FeatureStatistics`, the inception score from `ScoreSums`, `precision_recall` from all features.
The first two are mergeable sums, independent of how images are divided into batches, devices and
processes. Feature networks are submodules, not re-exported here.
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

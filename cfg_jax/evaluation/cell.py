"""How near are the samples of one setting to real images?

One cell: a checkpoint, its guidance and sampler, a number of samples, a plan of labels and a seed.
Sample i has label plan(i) and draws from fold_in(key(seed), i), so the samples are the same for any
batch size and number of devices, and cells of one seed share their noise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cfg_jax.evaluation.reference import Reference
from cfg_jax.evaluation.result import Result
from cfg_jax.features import FeatureNetwork
from cfg_jax.model import Model
from cfg_jax.noisy_classifier import NoisyClassifier

METRICS = ("fid", "sfid", "is", "precision_recall")
LABEL_PLANS = ("balanced", "random")


class Sampling(NamedTuple):
    """What a sweep moves; arguments of `Model.sample_x`, the config's where None."""

    w: float = 0.0
    num_steps: int | None = None
    step: str | None = None
    logvar_interp: float | None = None
    clip_x: bool | None = None
    respacing: str | None = None
    classifier_w: float = 0.0
    classifier_form: str = "eps"
    noise_temperature: float = 1.0
    score_temperature: float = 1.0


def evaluate(
    model: Model,
    network: FeatureNetwork,
    reference: Reference,
    *,
    folder: str | Path,
    metrics: Sequence[str] = ("fid", "is"),
    num_samples: int = 50_000,
    label_plan: str = "balanced",
    seed: int = 0,
    sampling: Sampling = Sampling(),  # noqa: B008  (a constant)
    classifier: NoisyClassifier | None = None,
    batch_size: int = 256,
    save_images: bool = False,
) -> Result:
    """Metrics of `num_samples` samples, in float64 on the host, with the protocol.

    Killed at any moment and called again, it goes on from the last whole state in its folder and
    counts nothing twice; a finished cell is read back. Memory does not depend on num_samples,
    except for precision_recall, which holds the features of all.

    Args:
      model: of images, no upsampler; averaged parameters.
      network: to see the samples through.
      reference: through the same network; with rows for precision_recall.
      folder: e.g. `<workdir>/evaluations`; the cell is a folder in it, named by a digest.
      metrics: some of METRICS.
      num_samples: N.
      label_plan: "balanced", sample i has label i mod K; "random", each drawn from the seed.
      seed: of noise and random labels.
      sampling: guidance and sampler.
      classifier: that guides with sampling.classifier_w.
      batch_size: samples at a time; no part of the result.
      save_images: also write the images, as `images_*.npz` in the cell's folder.

    Raises:
      ValueError: an unknown metric or plan, N that the plan does not cover, a metric that network
        or reference cannot give, what `Model.sample_x` refuses, features not finite.
      FloatingPointError: samples not finite.
    """
    raise NotImplementedError

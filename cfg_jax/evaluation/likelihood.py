"""Likelihood of a diffusion model, and accuracy of a noisy classifier, on a data set.

    bits/dim <= (KL(q(z_min | x) || N(0, I)) + sum of KL(q || p) + E -log p(x | z_max)) / (D ln 2)
    accuracy(logsnr) = P(the most probable label of z is the label of x)

Both are means over the examples of a split. The noise of an example depends on its index alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import data
from cfg_jax.config import build
from cfg_jax.core import keys as keys_lib
from cfg_jax.core.arguments import whole
from cfg_jax.core.diffusion import diffuse
from cfg_jax.core.likelihood import bits_per_dim, variational_bound
from cfg_jax.core.schedules import CosineSchedule, cosine_schedule, logsnr_grid
from cfg_jax.io.progress import track
from cfg_jax.runtime import devices, processes
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier

RAW_BITS = 8
"""Bits per dimension of images without any model."""


class Likelihood(NamedTuple):
    """Upper bound on -log2 p(x | label) of a model, in bits per dimension.

    prior, diffusion, decoder: parts of the bound, means over the examples; prior and decoder depend
      more on the end points of the log-SNR grid than on the model.
    standard_error: standard error over the examples of the total.
    num_examples, num_steps: N, and T network calls per example.
    """

    prior: float
    diffusion: float
    decoder: float
    standard_error: float
    num_examples: int
    num_steps: int

    @property
    def total(self) -> float:
        """prior + diffusion + decoder."""
        return self.prior + self.diffusion + self.decoder

    def report(self, *, images: bool = False) -> str:
        """The parts and the total, one per line, and a warning if raw images need fewer bits."""
        parts = ("prior", "diffusion", "decoder")
        lines = [f"{part:10}{getattr(self, part):9.4f}" for part in parts]
        total = f"{'total':10}{self.total:9.4f} +- {self.standard_error:.4f} bits/dim, "
        lines.append(f"{total}{self.num_examples} examples, T = {self.num_steps}")
        if images and self.total > RAW_BITS:
            lines.append(
                f"warning: images as they are need {RAW_BITS} bits/dim: this model is hardly "
                "trained, or T is too small"
            )
        return "\n".join(lines)


def likelihood(
    model: Model,
    source: data.Source,
    *,
    num_steps: int | None = None,
    logsnr_max: float | None = None,
    logvar_interp: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    num_examples: int | None = None,
) -> Likelihood:
    """Mean of `core.likelihood.variational_bound` over a data set, each x with its own label.

    Images are 8-bit values, points are continuous. A learned variance is used. A model trained with
    p_uncond 1 knows no labels and gets none.

    Args:
      num_steps: T, the config's if None; few steps give the bound of a coarse sampler.
      logsnr_max: end of the grid, where the decoder begins; the schedule's if None. About 10 suits
        8-bit data, since finer steps vanish in its rounding.
      logvar_interp: constant v for models without a learned variance; the config's if None.
      seed: example i draws from fold_in(key(seed), i).
      num_examples: number of examples, at least 1, the first of the source; all if None.

    Raises ValueError if the data has a different shape or number of labels than the model's, if a
    number is out of range or not an integer, or if the model is an upsampler.
    """
    _check_source(model, source)
    if model.low_res_shape:
        raise ValueError("this model is an upsampler: give a model that needs no low_res image")
    num_steps = model.config.sampling.num_steps if num_steps is None else num_steps
    logsnrs = logsnr_grid(_ending_at(model.schedule, logsnr_max), num_steps)
    interp = model.config.sampling.logvar_interp if logvar_interp is None else logvar_interp
    unlabelled = model.has_null_label and model.config.diffusion.p_uncond == 1

    def bound(params, batch):
        return variational_bound(
            batch["keys"],
            model.bind(params),
            batch["x"],
            jnp.full_like(batch["labels"], model.null_label) if unlabelled else batch["labels"],
            logsnrs,
            logvar_interp=interp,
            num_levels=256 if len(model.shape) == 3 else None,
            clip_x=model.config.sampling.clip_x,
        )

    nats = _over_examples(bound, model.params, source, seed, batch_size, num_examples)
    bits = {name: bits_per_dim(values, (1, *model.shape)) for name, values in nats.items()}
    total = np.sum(list(bits.values()), axis=0)
    return Likelihood(
        *(float(bits[name].mean()) for name in ("prior", "diffusion", "decoder")),
        standard_error=float(total.std() / np.sqrt(total.size)),
        num_examples=total.size,
        num_steps=num_steps,
    )


def accuracy(
    classifier: NoisyClassifier,
    source: data.Source,
    logsnrs: Sequence[float],
    *,
    seed: int = 0,
    batch_size: int = 256,
    num_examples: int | None = None,
) -> dict[float, float]:
    """{logsnr: fraction of examples whose z the classifier labels correctly}, in [0, 1].

    An example has the same noise at each of `logsnrs`; other arguments as for `likelihood`. Raises
    ValueError if the data has a different shape or number of labels than the classifier's.
    """
    _check_source(classifier, source)
    levels = jnp.asarray(logsnrs, jnp.float32)

    def correct(params, batch):
        eps = keys_lib.normal(batch["keys"], batch["x"].shape)
        log_probs = classifier.experiment.log_probs(params)

        def at(logsnr):
            every = jnp.broadcast_to(logsnr, eps.shape[:1])
            best = jnp.argmax(log_probs(diffuse(batch["x"], eps, logsnr), every), axis=1)
            return best == batch["labels"]

        return {"correct": jax.lax.map(at, levels).T}

    found = _over_examples(correct, classifier.params, source, seed, batch_size, num_examples)
    return dict(zip(map(float, logsnrs), found["correct"].mean(axis=0).tolist(), strict=True))


def _ending_at(schedule: build.Schedule, logsnr_max: float | None) -> build.Schedule:
    if logsnr_max is None:
        return schedule
    if not isinstance(schedule, CosineSchedule):
        raise ValueError(
            f"logsnr_max={logsnr_max}: this schedule ends at its own {schedule.logsnr_max:g}"
        )
    if not schedule.logsnr_min < logsnr_max <= schedule.logsnr_max:
        raise ValueError(
            f"logsnr_max={logsnr_max}: need a value above {schedule.logsnr_min:g} and up to "
            f"{schedule.logsnr_max:g}, the range of the model's training"
        )
    return cosine_schedule(schedule.logsnr_min, logsnr_max)


def _check_source(trained: Model | NoisyClassifier, source: data.Source) -> None:
    found = (tuple(source.shape), source.num_classes)
    if found != (trained.shape, len(trained.label_names)):
        raise ValueError(
            f"{source.name} has examples of {found[0]} with {found[1]} labels, the model is for "
            f"{trained.shape} with {len(trained.label_names)}: give the data it was trained on"
        )


def _over_examples(
    function: Callable[[Any, dict], dict],
    params: Any,
    source: data.Source,
    seed: int,
    batch_size: int,
    num_examples: int | None,
) -> dict[str, np.ndarray]:
    """function(params, {x, labels, keys}) of every example, over all devices: float64 [N, ...]."""
    whole("batch_size", batch_size, 1)
    count = len(source)
    if num_examples is not None:
        count = min(count, whole("num_examples", num_examples, 1))
    compiled = devices.pmap_batch(function)
    batches = devices.index_batches(0, count, min(batch_size, count))
    parts = []
    for index, num_new in track(batches, "batch"):
        chosen = processes.share(index)
        keys = keys_lib.indexed(jax.random.key(seed), chosen)
        batch = data.stack([source[int(i)] for i in chosen], source.num_classes) | {"keys": keys}
        parts.append(processes.gather(compiled(params, batch), num_new))
    return jax.tree.map(lambda *rows: np.concatenate(rows).astype(np.float64), *parts)


def open_data(trained: Model | NoisyClassifier, split: str) -> data.Source:
    """Opens a split of the data set that a model was trained on."""
    return data.open_source(split=split, **build.data_arguments(trained.config))

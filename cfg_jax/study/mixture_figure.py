"""What does guidance do to three Gaussians?

The figure shows each class's guided density, p(z | c)^(1 + w) p(z)^(-w) normalised on a grid, above
samples drawn with the exact denoiser; w grows from left to right. The two differ under strong
guidance: the sampler follows the guided score at every noise level, but diffusing the guided
density of one level does not give the guided density of another level.

Source: Ho & Salimans 2022, figure 2, whose means, variance and weights are not stated.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.core.guidance import classifier_free_guidance
from cfg_jax.core.oracles import GaussianMixture, triangle
from cfg_jax.core.samplers import sample
from cfg_jax.core.schedules import cosine_schedule, logsnr_grid
from cfg_jax.io.images import Picture, rendered

REACH = 3.0
"""Both axes of the figure span -REACH to REACH."""


def three_gaussians(std: float) -> GaussianMixture:
    """Three equally likely classes with means on a circle of radius 1."""
    return GaussianMixture(triangle(), std**2, np.ones(3))


def guided_densities(mixture: GaussianMixture, w: float, resolution: int) -> np.ndarray:
    """Guided density of clean data for each class on a grid: [K, resolution, resolution].

    Row 0 is the lowest second coordinate. Each density sums to 1 / (area of a grid cell).
    """
    axis, cell = np.linspace(-REACH, REACH, resolution, retstep=True)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    points = jnp.asarray(points, jnp.float32)

    def density(label: int) -> np.ndarray:
        labels = jnp.full(len(points), label)
        log_density = mixture.guided_log_density(points, jnp.float32(20.0), labels, w)
        # float64 and subtracting the maximum, since exponents reach hundreds.
        values = np.asarray(log_density, np.float64)
        values = np.exp(values - values.max())
        return (values / (values.sum() * cell**2)).reshape(resolution, resolution)

    return np.stack([density(label) for label in range(mixture.num_classes)])


def guided_samples(
    mixture: GaussianMixture, weights: Sequence[float], *, count: int, num_steps: int, seed: int
) -> np.ndarray:
    """Samples of the ancestral sampler with the exact denoiser: [len(weights), K, count, 2]."""
    logsnrs = logsnr_grid(cosine_schedule(), num_steps)
    labels = jnp.repeat(jnp.arange(mixture.num_classes), count)

    @jax.jit
    def draw(key, w):
        denoiser = classifier_free_guidance(
            mixture.predict, labels, w, null_label=mixture.null_label
        )
        return sample(key, denoiser, (labels.size, 2), logsnrs, clip_x=False)

    draws = [draw(jax.random.key(seed), jnp.float32(w)) for w in weights]
    return np.stack(draws).reshape(len(weights), mixture.num_classes, count, 2)


def figure(
    mixture: GaussianMixture, weights: Sequence[float], samples: np.ndarray, resolution: int = 301
) -> Picture:
    """Guided densities above samples, one column per weight."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(1.7 * len(weights) + 0.5, 3.8), dpi=160, layout="constrained")
    panels = drawing.subplots(
        2,
        len(weights),
        sharex=True,
        sharey=True,
        squeeze=False,
        subplot_kw={"aspect": "equal", "xlim": (-REACH, REACH), "ylim": (-REACH, REACH)},
    )
    colours = np.array([[0.84, 0.15, 0.16], [0.12, 0.47, 0.71], [0.17, 0.63, 0.17]])
    for (above, below), w, drawn in zip(panels.T, weights, samples, strict=True):
        densities = guided_densities(mixture, w, resolution)
        strength = densities / densities.max(axis=(1, 2), keepdims=True)
        ink = np.einsum("khw,kc->hwc", strength, 1 - colours[: len(densities)])
        above.set_title(f"w = {w:g}")
        above.imshow(np.clip(1 - ink, 0, 1), origin="lower", extent=(-REACH, REACH, -REACH, REACH))
        for points, colour in zip(drawn, colours, strict=False):
            below.plot(*points.T, ".", markersize=1.5, color=colour)
    panels[0, 0].set_ylabel("guided density")
    panels[1, 0].set_ylabel("samples")
    return rendered(drawing)

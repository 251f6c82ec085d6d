"""Programs for `metrics.py`: each function returns {implementation: function without arguments}.

`given` has the command line's images, width, rows and threads, and the number k of neighbors. A
rival that is not installed is left out, with a line that says what to install.
"""

import argparse
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recording import OURS, same
from cfg_jax.metrics import inception as extractor
from cfg_jax.metrics import neighbors
from cfg_jax.metrics.frechet import frechet_distance
from cfg_jax.metrics.inception_layers import expected_shapes
from cfg_jax.metrics.moments import FeatureStatistics

SIDE = 64  # of the images; both networks enlarge them to 299 x 299

Programs = dict[str, Callable]


def made_up_weights() -> dict:
    """Random weights with the names, shapes and scales of the published Inception network."""
    weights = {}
    for name, shape in expected_shapes().items():
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        if len(shape) > 1:
            weights[name] = noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith("running_var"):
            weights[name] = np.float32(0.5) + abs(noise)
        else:
            weights[name] = np.float32(name.endswith("weight")) + np.float32(0.1) * noise
    return weights


def inception(given: argparse.Namespace) -> Programs:
    """Features of a batch: ours, and torch-fidelity's in both memory formats."""
    images = np.random.default_rng(0).integers(0, 256, (given.images, SIDE, SIDE, 3), np.uint8)
    state_dict = made_up_weights()
    weights = jax.tree.map(jnp.asarray, extractor.parameters(state_dict))
    apply, batch = jax.jit(extractor.apply), jnp.asarray(images)
    programs = {OURS: lambda: jax.block_until_ready(apply(weights, batch))}
    try:
        theirs = torch_inception(given, state_dict, images)
    except (ImportError, RuntimeError) as error:
        print(f"torch-fidelity: not run, {first_line(error)}; pip install torch torch-fidelity")
        return programs
    found = programs[OURS]()
    for name, program in theirs.items():
        pool3, logits = (array.numpy() for array in program())
        same(f"pool3 of {name}", found.pool3, pool3, 1e-4)
        same(f"logits_unbiased of {name}", found.logits_unbiased, logits, 1e-4)
    return programs | theirs


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def torch_inception(given: argparse.Namespace, state_dict: dict, images: np.ndarray) -> Programs:
    """torch-fidelity's extractor with the same weights."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.set_num_threads(given.threads)
    programs = {}
    for name, form in (
        ("torch-fidelity", torch.contiguous_format),
        ("torch-fidelity, channels last", torch.channels_last),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.pth"
            torch.save({k: torch.from_numpy(v) for k, v in state_dict.items()}, path)
            module = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=str(path),
            )
        module = module.eval().to(memory_format=form)
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=form)

        def run(module=module, batch=batch):
            with torch.inference_mode():
                return module(batch)

        programs[name] = run
    return programs


def features(given: argparse.Namespace, seed: int, count: int) -> np.ndarray:
    """Correlated features [count, width], about as unequal in variance as Inception's."""
    rng = np.random.default_rng(seed)
    spread = 1 / np.sqrt(1 + np.arange(given.width))
    mixing = np.random.default_rng(0).standard_normal((given.width, given.width))
    return (rng.standard_normal((count, given.width)) * spread) @ mixing + 0.1 * seed


def frechet(given: argparse.Namespace) -> Programs:
    """The Frechet distance of two sets of moments: ours, and pytorch-fid's."""
    sets = [FeatureStatistics.of(features(given, seed, given.width + 1000)) for seed in (1, 2)]
    moments = [array for each in sets for array in (each.mean, each.covariance)]
    programs = {OURS: lambda: frechet_distance(*moments)}
    try:
        from pytorch_fid.fid_score import calculate_frechet_distance
    except (ImportError, RuntimeError) as error:
        print(f"pytorch-fid: not run, {first_line(error)}; pip install pytorch-fid")
        return programs
    programs["pytorch-fid"] = lambda: calculate_frechet_distance(*moments)
    try:
        values = [program() for program in programs.values()]
    except (TypeError, ValueError) as error:  # scipy dropped an argument that pytorch-fid gives
        print(f"pytorch-fid: not run, {first_line(error)}")
        return {OURS: programs[OURS]}
    same("Frechet distance", *values, 1e-5)
    return programs


def precision_recall(given: argparse.Namespace) -> Programs:
    """Precision and recall of two sets of features: ours, and plain NumPy."""
    generated, reference = (features(given, seed, given.rows).astype(np.float32) for seed in (1, 2))
    programs = {
        OURS: lambda: neighbors.precision_recall(generated, reference, given.k),
        "plain NumPy": lambda: plain_precision_recall(generated, reference, given.k),
    }
    same("precision and recall", *(program() for program in programs.values()), 1e-3)
    return programs


def plain_precision_recall(generated, reference, k: int, block: int = 1000):
    """The formula in float64, a block of rows at a time, without care for rounding."""
    generated, reference = np.float64(generated), np.float64(reference)

    def blocks(a, b):
        norms = (b**2).sum(axis=1)
        for start in range(0, len(a), block):
            rows = a[start : start + block]
            yield start, (rows**2).sum(axis=1)[:, None] + norms - 2 * rows @ b.T

    def radii(a):
        return np.concatenate([np.partition(d, k, axis=1)[:, k] for _, d in blocks(a, a)])

    def covered(a, b, radius):
        return np.mean(np.concatenate([(d <= radius).any(axis=1) for _, d in blocks(a, b)]))

    of_reference, of_generated = radii(reference), radii(generated)
    precision = covered(generated, reference, of_reference)
    return precision, covered(reference, generated, of_generated)

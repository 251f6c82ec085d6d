"""Metrics of one cell: one model sampled with one setting and one seed.

The label and the noise of sample i depend on the label plan, the seed and i, not on batch size and
devices (`Samples`). Cells of one seed share their noise.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cfg_jax.evaluation.accumulate import Accumulated, accumulate
from cfg_jax.evaluation.given import GivenImages
from cfg_jax.evaluation.networks import FeatureNetwork
from cfg_jax.evaluation.reference import Reference
from cfg_jax.evaluation.result import Result, read_result, write_result
from cfg_jax.evaluation.sums import SCORE_SPLIT
from cfg_jax.io import files
from cfg_jax.metrics import FeatureStatistics, Moments, frechet_distance, precision_recall
from cfg_jax.runtime import processes
from cfg_jax.sampling.identity import identity as identity_of
from cfg_jax.sampling.samples import Samples
from cfg_jax.storage import manifest
from cfg_jax.storage.lock import one_writer

METRICS = ("fid", "sfid", "is", "precision_recall")
NEIGHBORS = 3


def evaluate(
    samples: Samples | GivenImages,
    network: FeatureNetwork,
    reference: Reference,
    *,
    folder: str | Path,
    metrics: Sequence[str] = ("fid", "is"),
    batch_size: int = 256,
    save_images: bool = False,
) -> Result:
    """Metrics of samples, computed in float64 on the host, with all settings.

    An interrupted call resumes from the last state in `folder`; a finished result is read from its
    file. Memory does not depend on the number of samples, except that precision_recall keeps all
    features. Every process must make this call; all get the same result, for any process count.
    Only one call at a time may work on a cell.

    Args:
      samples: model, settings and seed of the samples; or images of another program.
      network: feature network that embeds the samples.
      reference: statistics computed with `network`; needs rows for precision_recall.
      folder: folder of all results, e.g. `<workdir>/evaluations`, visible to all processes; each
        cell has a subfolder.
      metrics: names from METRICS.
      batch_size: number of samples per batch; not recorded, since it changes results by rounding
        only.
      save_images: also write the images, as `images_*.npz` in the cell's folder.

    Raises ValueError as `check_request`, if network or reference do not support a metric, if
    features are not finite, or if another process works on the cell. Raises FloatingPointError if
    samples are not finite.
    """
    check_request(samples, metrics)
    _check_reference(samples.shape, network, reference, metrics)
    swept = samples.swept()
    protocol = network.identity | samples.protocol() | {"ema": samples.ema}
    identity = {**protocol, **identity_of(swept), "seed": samples.record()["seed"]}
    cell = files.folder(folder) / manifest.sha256_json(identity)[:16]
    path = cell / f"result_{reference.sha256[:16]}.json"
    earlier = _earlier(path)
    if earlier and _numbers(metrics) <= earlier.metrics.keys() and not save_images:
        return earlier
    kept = {"keep_rows": "precision_recall" in metrics, "keep_images": save_images}
    kept |= {"identity": identity, "batch_size": batch_size}
    total = samples.num_samples
    with one_writer(cell):
        seen = accumulate(lambda index: samples.draw(index)[0], total, network, cell, **kept)
        return _finish(samples, metrics, seen, reference, (protocol, swept, path))


def _earlier(path: Path) -> Result | None:
    return read_result(path) if processes.of_first(path.exists()) else None


def _finish(
    samples: Samples | GivenImages,
    metrics: Sequence[str],
    seen: Accumulated,
    reference: Reference,
    cell: tuple[dict[str, Any], dict[str, Any], Path],
) -> Result:
    """Writes the result of a cell, (protocol, swept, path), with the metrics it had before."""
    protocol, swept, path = cell
    earlier, found = _earlier(path), _measured(metrics, seen, reference)
    protocol |= _reference_fields(reference, metrics) | {"score_split": SCORE_SPLIT}
    if earlier:
        protocol, found = earlier.protocol | protocol, earlier.metrics | found
    record = {
        **samples.record(),
        "versions": manifest.versions(),
        "warnings": _rank_warnings(seen, reference, found),
    }
    result = Result(found, protocol, swept, record, path)
    write_result(result)
    return result


def check_request(samples: Samples | GivenImages, metrics: Sequence[str]) -> None:
    """Raises ValueError for unknown metrics or invalid samples; needs no reference."""
    samples.check()
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"metrics={','.join(metrics)}: choose some of {', '.join(METRICS)}")


def _check_reference(
    shape: tuple[int, ...], network: FeatureNetwork, reference: Reference, metrics: Sequence[str]
) -> None:
    if reference.network_sha256 != network.sha256:
        raise ValueError(
            f"reference {reference.name} and samples use different feature networks "
            f"({reference.network_sha256[:12]}, {network.sha256[:12]}): recompute the reference "
            "with the samples' network"
        )
    if reference.shape not in (None, shape):
        raise ValueError(
            f"the reference {reference.name} has images of {reference.shape}, the samples are "
            f"{shape}: give a reference of the same size"
        )
    if "sfid" in metrics and reference.spatial is None:
        raise ValueError(
            f"sfid needs spatial features, and {reference.name} has none from {network.name}: "
            "omit sfid, or use Inception and a reference with spatial features"
        )
    if "precision_recall" in metrics and reference.rows is None:
        raise ValueError("precision_recall needs a reference with rows: pass with_rows=True")


def _reference_fields(reference: Reference, metrics: Sequence[str]) -> dict[str, Any]:
    fields = {
        "reference": reference.name,
        "reference_sha256": reference.sha256,
        "reference_count": reference.count,
    }
    if "precision_recall" in metrics:
        count = len(reference.rows)
        fields["precision_recall"] = {"neighbors": NEIGHBORS, "reference_rows": count}
    return fields


def _numbers(metrics: Sequence[str]) -> set[str]:
    """Keys of the requested metrics in a result."""
    several = {"is": {"is", "is_std"}, "precision_recall": {"precision", "recall"}}
    return set().union(*(several.get(name, {name}) for name in metrics))


def _measured(metrics: Sequence[str], seen: Accumulated, reference: Reference) -> dict[str, float]:
    found = {}
    for name, ours, theirs in _frechet_pairs(metrics, seen, reference):
        with warnings.catch_warnings(action="ignore"):  # the result records its own rank warnings
            found[name] = frechet_distance(
                ours.mean, ours.covariance, theirs.mean, theirs.covariance
            )
    if "is" in metrics:
        score = seen.sums.score.score()
        found |= {"is": score.mean, "is_std": score.std}
    if "precision_recall" in metrics:
        found |= precision_recall(seen.rows, reference.rows, NEIGHBORS)._asdict()
    return found


def _frechet_pairs(
    metrics: Iterable[str], seen: Accumulated, reference: Reference
) -> list[tuple[str, FeatureStatistics, Moments]]:
    sums = seen.sums
    pairs = [("fid", sums.pool, reference.pool), ("sfid", sums.spatial, reference.spatial)]
    return [pair for pair in pairs if pair[0] in metrics]


def _rank_warnings(seen: Accumulated, reference: Reference, metrics: Iterable[str]) -> list[str]:
    """One sentence per set of images that is too small for a covariance of full rank."""
    said = []
    for name, ours, _ in _frechet_pairs(metrics, seen, reference):
        sets = {"samples": ours.count, f"images of {reference.name}": reference.count}
        for images_of, count in sets.items():
            if count is not None and count <= ours.mean.size:
                said.append(
                    f"{name}: {count} {images_of} for features of {ours.mean.size} numbers, the "
                    f"covariance has rank {count - 1} at most; use more than {ours.mean.size}"
                )
    return said

"""Results of evaluations: metrics, settings, and which results are comparable.

A cell is one model sampled with one setting. The settings of its result are in three groups, all
JSON: `protocol` must agree for two results to be comparable, `swept` may differ, and `record` holds
what else is needed to reproduce the result.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from cfg_jax.evaluation.networks import INCEPTION
from cfg_jax.io import files
from cfg_jax.io.reading import read_json
from cfg_jax.runtime import processes
from cfg_jax.sampling.identity import upgraded

NAMES = {
    "fid": ("FID", "Frechet distance"),
    "sfid": ("sFID", "spatial Frechet distance"),
    "is": ("IS", "score"),
    "is_std": ("IS, deviation over splits", "score, deviation over splits"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
}
"""Title of each metric, with Inception and with another network."""

_BETTER = {"fid": "lower", "sfid": "lower", "is": "higher", "precision": "higher"}
_BETTER |= {"recall": "higher"}


class Result(NamedTuple):
    """Metrics and settings of one cell: one model sampled with one setting.

    metrics: measured values of "fid", "sfid", "is", "is_std", "precision" and "recall".
    protocol: network, network_sha256, resize, reference, reference_sha256, reference_count,
      image_shape, num_samples, label_plan, ema, score_split (images per split of the inception
      score) and, if measured, precision_recall: {"neighbors": k, "reference_rows": number of real
      images}.
    swept: settings that a sweep varies: the fields of `SamplingSettings`, filled; classifier (its
      SHA-256, or None), model (SHA-256), checkpoint (training step) and p_uncond; of `GivenImages`
      only images (path) and images_sha256.
    record: seed, config (of the model), classifier_config, versions (of packages) and warnings.
    path: path of the JSON file.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]
    swept: dict[str, Any]
    record: dict[str, Any]
    path: Path


def write_result(result: Result) -> None:
    """Writes the result to its path atomically, from process 0."""
    if not processes.is_first():
        return
    fields = {name: value for name, value in result._asdict().items() if name != "path"}
    files.save_text(result.path, json.dumps(fields, indent=1))


def read_result(path: str | Path) -> Result:
    """Reads a result; raises ValueError if `write_result` did not write the file."""
    try:
        return from_fields(read_json(files.folder(path)), files.folder(path))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not an evaluation result ({type(error).__name__}): give a result_*.json of "
            "cfg-jax evaluate"
        ) from error


def from_fields(fields: dict[str, Any], path: Path) -> Result:
    """The result with these JSON values; TypeError for other names or types than it has."""
    result = Result(**fields, path=path)
    if isinstance(result.swept, dict):
        result = result._replace(swept=upgraded(result.swept))
    numbers = all(isinstance(part, dict) for part in result[:-1]) and result.metrics.values()
    if not numbers or not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("metrics, protocol, swept and record must be objects, metrics of numbers")
    return result


def check_comparable(*results: Result) -> None:
    """Raises ValueError if protocols differ, naming the first different field."""
    for other in results[1:]:
        first = results[0]
        for field in first.protocol | other.protocol:
            ours, theirs = first.protocol.get(field), other.protocol.get(field)
            # If only one result has precision, the other metrics remain comparable.
            if ours != theirs and not (field == "precision_recall" and None in (ours, theirs)):
                raise ValueError(
                    f"results of different protocols: {field} is {ours} in {first.path} and "
                    f"{theirs} in {other.path}; evaluate both with the same {field}"
                )


def short_title(metric: str, protocol: dict[str, Any]) -> str:
    """Name of a metric: "FID" with Inception, else e.g. "Frechet distance"."""
    with_inception, otherwise = NAMES[metric]
    return with_inception if protocol["network"] == INCEPTION else otherwise


def title(metric: str, protocol: dict[str, Any]) -> str:
    """Title of a metric: "FID" with Inception, else e.g. "Frechet distance in digits_features"."""
    network = protocol["network"]
    return short_title(metric, protocol) + (f" in {network}" if network != INCEPTION else "")


def shown(result: Result) -> dict[str, float]:
    """Metrics without "is_std" if there is only one split."""
    several_splits = result.protocol["num_samples"] > result.protocol["score_split"]
    return {k: v for k, v in result.metrics.items() if several_splits or k != "is_std"}


def report(result: Result) -> str:
    """Metrics with titles and the protocol, as lines of text."""
    protocol = result.protocol
    split = min(protocol["num_samples"], protocol["score_split"])
    lines = {title(name, protocol): _number(name, value) for name, value in shown(result).items()}
    of = "an unknown number of" if protocol["reference_count"] is None else "all"
    lines |= {
        "network": f"{protocol['network']} {protocol['network_sha256'][:12]}, resize "
        f"{protocol['resize']}",
        "reference": f"{protocol['reference']} {protocol['reference_sha256'][:12]}, {of} "
        f"{protocol['reference_count'] or ''} images",
        **_origin(result),
        "score": f"splits of {split} images",
    }
    if "precision_recall" in protocol:
        lines["neighbors"] = "k = {neighbors}, {reference_rows} real images".format(
            **protocol["precision_recall"]
        )
    lines["result"] = str(result.path)
    width = max(map(len, lines)) + 2
    text = [f"{name:{width}}{value}" for name, value in lines.items()]
    return "\n".join(text + [f"warning: {said}" for said in result.record["warnings"]])


def _number(name: str, value: float) -> str:
    """A metric as text, and which way is better."""
    return f"{value:.4f}" + (f" ({_BETTER[name]} is better)" if name in _BETTER else "")


def grid(swept: dict[str, Any]) -> str:
    """Steps of a cell as text, "T = 25 (ddim25)"."""
    return f"T = {swept['num_steps']}" + (f" ({swept['respacing']})" if swept["respacing"] else "")


def temperatures(swept: dict[str, Any]) -> list[str]:
    """Temperatures of a cell other than 1 as text, "noise temperature 0.9"."""
    names = ("noise_temperature", "score_temperature")
    return [f"{name.replace('_', ' ')} {swept[name]:g}" for name in names if swept[name] != 1]


def sampler(swept: dict[str, Any]) -> list[str]:
    """Solver, grid, noise and guidance of a cell as text, where they are not the paper's."""
    parts = [swept["solver"]] if swept["solver"] != "ancestral" else []
    if swept["grid"] != "schedule":
        parts.append(f"{swept['grid']} grid")
    parts += [f"{name} {swept[name]:g}" for name in ("eta", "churn") if swept[name]]
    if swept["schedule"] != "constant":
        parts.append(f"{swept['schedule']} weight")
    if swept["interval"]:
        parts.append("interval [{:g}, {:g})".format(*swept["interval"]))
    if swept["rule"] != "cfg":
        parts.append(swept["rule"])
    if swept["against"] != "null":
        parts.append(f"against {swept['against']}")
    if swept["threshold"]:
        parts.append(f"threshold {swept['threshold']:g}")
    if swept["dtype"]:
        parts.append(swept["dtype"])
    if swept["weaker"]:
        parts.append(f"weaker model {swept['weaker'][:12]}")
    return parts


def _origin(result: Result) -> dict[str, str]:
    """Lines about the samples: a model with its sampler, or images of another program."""
    protocol, swept, count = result.protocol, result.swept, result.protocol["num_samples"]
    if "images" in swept:
        return {"samples": f"{count} of {swept['images']} {swept['images_sha256'][:12]}"}
    plan, seed = protocol["label_plan"], result.record["seed"]
    about = f"{count}, {plan} labels, seed {seed}, EMA of step {swept['checkpoint']}"
    return {"samples": about, "sampler": _sampler(swept)}


def _sampler(swept: dict[str, Any]) -> str:
    """Guidance and sampler as text, without default settings."""
    parts = [f"w = {swept['w']:g}", *(sampler(swept) or ["ancestral"]), grid(swept)]
    parts.append(f"v = {swept['logvar_interp']:g}")
    parts.append("clipped" if swept["clip_x"] else "not clipped")
    if swept["classifier"]:
        form, by = swept["classifier_form"], swept["classifier_w"]
        parts.append(f"classifier {swept['classifier'][:12]} {by:g} ({form})")
    return ", ".join(parts + temperatures(swept))

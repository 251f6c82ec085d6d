"""What was measured, by which protocol, and which results may stand side by side?

`protocol` is what has to agree for two numbers to be comparable; `swept` is what they are compared
over; `record` is the rest that a reader needs to measure again. All three are JSON.
"""

from pathlib import Path
from typing import Any, NamedTuple


class Result(NamedTuple):
    """One cell.

    metrics: {"fid", "sfid", "is", "is_std", "precision", "recall"}, those measured.
    protocol: network, network_sha256, resize, reference, reference_sha256, reference_count,
      image_shape, num_samples, label_plan, ema, score_split, and the rows and k of precision.
    swept: the fields of `Sampling`, resolved, with step (of the checkpoint) and classifier.
    record: seed, model (SHA-256, config, step), classifier, package versions, warnings.
    path: of its JSON file.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]
    swept: dict[str, Any]
    record: dict[str, Any]
    path: Path


def read_result(path: str | Path) -> Result:
    """The result in a JSON file; ValueError for another file."""
    raise NotImplementedError


def check_comparable(*results: Result) -> None:
    """Refuses results of unlike protocols.

    Raises:
      ValueError: with the first field that differs, and its two values.
    """
    raise NotImplementedError


def title(metric: str, protocol: dict[str, Any]) -> str:
    """The name of a number of `Result.metrics`: "FID" only where Inception measured it.

    Through another network "fid" is "Frechet distance in digits_features".
    """
    raise NotImplementedError


def report(result: Result) -> str:
    """The numbers by their names, and the protocol beside them, as lines of text."""
    raise NotImplementedError

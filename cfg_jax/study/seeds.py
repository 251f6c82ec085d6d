"""Means of one cell over several seeds, with standard errors."""

from collections.abc import Sequence

import numpy as np

from cfg_jax.evaluation.result import Result, check_comparable

_ERRORS = "standard_errors"


def mean(results: Sequence[Result]) -> Result:
    """The mean of every metric that all results have; they differ only in the seed.

    Its record has the first seed, `num_seeds`, and `standard_errors`: of a metric, the standard
    deviation over the seeds (with n - 1) / sqrt(n). A single result is returned unchanged.

    Raises ValueError as `check_comparable`.
    """
    first, count = results[0], len(results)
    if count == 1:
        return first
    check_comparable(*results)
    names = [name for name in first.metrics if all(name in each.metrics for each in results)]
    values = {name: [each.metrics[name] for each in results] for name in names}
    record = first.record | {
        "num_seeds": count,
        _ERRORS: {n: float(np.std(found, ddof=1) / count**0.5) for n, found in values.items()},
        "warnings": list(
            dict.fromkeys(said for each in results for said in each.record["warnings"])
        ),
    }
    return first._replace(metrics={n: float(np.mean(v)) for n, v in values.items()}, record=record)


def count(result: Result) -> int:
    """Number of seeds of a result."""
    return int(result.record.get("num_seeds", 1))


def error(result: Result, name: str) -> float:
    """Standard error of a metric over seeds; 0 for a single seed, of which it is unknown."""
    return errors(result).get(name, 0.0)


def errors(result: Result) -> dict[str, float]:
    """Standard error of every metric by name; {} for a single seed."""
    return dict(result.record.get(_ERRORS, {}))


def text(result: Result, name: str, decimals: int) -> str:
    """A metric as text, "0.293 ± 0.004" with several seeds."""
    known = f" ± {error(result, name):.{decimals}f}" if count(result) > 1 else ""
    return f"{result.metrics[name]:.{decimals}f}{known}"

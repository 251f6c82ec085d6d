"""Which of the paper's claims hold for the results of a sweep?

Each verdict is computed from the numbers shown beside it, or is "not measured" if results are
missing. A cell is the result of one model sampled with one setting.
Sources: Ho & Salimans 2022, section 4, whose tables pass all their claims; Dhariwal & Nichol 2021,
appendix G, on temperatures.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from cfg_jax.evaluation.result import Result
from cfg_jax.study import seeds
from cfg_jax.study.curves import Curve, families, is_alongside, moved

HOLDS, IN_PART, FAILS, NOT_MEASURED = "holds", "holds in part", "does not hold", "not measured"

SMALL_W = 0.5
"""Largest small w; the paper's lowest FIDs are at w = 0.1 and 0.3 to 0.4."""

LITTLE = 0.05
"""Largest gain that counts as little, as a fraction of the distance: table 2 gains 20 per cent from
T = 128 to 256, none from 256 to 1024."""


class Claim(NamedTuple):
    """A claim of the paper, one of four verdicts, and lines with the numbers behind it."""

    claim: str
    verdict: str
    numbers: list[str]


def check_claims(results: Sequence[Result]) -> list[Claim]:
    """Verdicts on the paper's claims, with measured baselines; raises ValueError as `families`."""
    over_p, over_t, _, _, others = families(results)
    known = [curve.results for curve in over_p]
    curves = over_p + [curve for curve in over_t if curve.results not in known]
    halves = [curve for curve in over_p if curve.results[0].swept["p_uncond"] == 0.5]
    lower = [curve for curve in over_p if 0 < curve.results[0].swept["p_uncond"] < 0.5]
    classifiers = [curve for curve in others if curve.parameter == "classifier_w"]
    temperatures = [curve for curve in others if curve.parameter != "classifier_w"]
    found = [
        _claim(
            "The score rises with the guidance weight w.",
            curves,
            _score_rises,
            needs="needs two weights w of 0 or more: add one",
        ),
        _claim(
            f"The Frechet distance is lowest at a small w, 0 < w <= {SMALL_W:g}, and rises with w "
            "beyond it.",
            curves,
            _distance_dips,
            needs=f"needs a w above 0 and up to {SMALL_W:g}, and one above it: add what is missing",
        ),
        _claim(
            "p_uncond = 0.5 is worse than 0.1 and 0.2: larger distance at equal score.",
            lower if halves else [],
            lambda curve: _half_is_worse(curve, halves[0]),
            needs="needs a run with p_uncond = 0.5 and one with less: add what is missing",
        ),
        _steps_saturate(over_t),
    ]
    if classifiers:
        sentence = "Classifier guidance makes the same trade-off."
        judge = functools.partial(_classifier_trades, results=results)
        needs = "needs a second classifier weight, or the cell without a classifier: add it"
        found.append(_claim(sentence, classifiers, judge, needs))
    if temperatures:
        sentence = (
            "Noise and score temperatures do not replace guidance: it reaches their score at no "
            "larger distance."
        )
        judge = functools.partial(_temperatures_lose, results=results)
        needs = "needs cells guided by w alone at the same T: add them"
        found.append(_claim(sentence, temperatures, judge, needs))
    return found


def cautions(results: Sequence[Result]) -> list[str]:
    """Reasons why differences between the results may be chance, a line each."""
    found = list(dict.fromkeys(said for result in results for said in result.record["warnings"]))
    if max(map(seeds.count, results)) == 1:
        count = results[0].protocol["num_samples"]
        found.append(
            f"one seed of {count} samples: differences may be chance; num_seeds=3 shows errors"
        )
    return found


def summary(claims: Sequence[Claim]) -> str:
    """Claims, verdicts and numbers as text."""
    return "\n".join(
        "\n".join([f"{claim.verdict.upper()}: {claim.claim}", *(f"    {n}" for n in claim.numbers)])
        for claim in claims
    )


def _claim(sentence: str, curves: Iterable[Curve], judge: Callable, needs: str) -> Claim:
    """The verdict that all curves share, otherwise IN_PART.

    judge: curve -> (HOLDS, IN_PART or FAILS, the numbers as text), or None if cells are missing.
    needs: the cells that the claim needs, as text.
    """
    found = [(curve.name, judge(curve)) for curve in curves]
    found = [(name, *verdict) for name, verdict in found if verdict is not None]
    if not found:
        return Claim(sentence, NOT_MEASURED, [needs])
    verdicts = {verdict for _, verdict, _ in found}
    verdict = verdicts.pop() if len(verdicts) == 1 else IN_PART
    return Claim(sentence, verdict, [f"{name}: {text}" for name, _, text in found])


def _verdict(holds: bool, in_part: bool = False) -> str:
    return HOLDS if holds else IN_PART if in_part else FAILS


def _score_rises(curve: Curve) -> tuple[str, str] | None:
    """HOLDS if the score rises from each weight to the next.

    IN_PART if fewer than half of the steps are falls and the score ends above its start.
    """
    pairs = _guided(curve, "is")
    if len(pairs) < 2:
        return None
    falls = _falls(pairs)
    mostly = 2 * len(falls) < len(pairs) - 1 and pairs[-1][1] > pairs[0][1]
    text = _way(pairs[0], pairs[-1]) + (f", but {', '.join(falls)}" if falls else "")
    return _verdict(not falls, mostly), text


def _distance_dips(curve: Curve) -> tuple[str, str] | None:
    """HOLDS if argmin of the distance is in (0, SMALL_W] and the distance then only rises."""
    pairs = _guided(curve, "fid")
    if not any(0 < w <= SMALL_W for w, _ in pairs) or pairs[-1][0] <= SMALL_W:
        return None
    least = min(range(len(pairs)), key=lambda i: pairs[i][1])
    falls = _falls(pairs[least:])
    ends = [pairs[i] for i in (0, len(pairs) - 1) if i != least]
    text = "lowest " + ", ".join(map(_at, [pairs[least], *ends]))
    text += f"; falls again: {', '.join(falls)}" if falls else ""
    return _verdict(0 < pairs[least][0] <= SMALL_W and not falls), text


def _half_is_worse(curve: Curve, half: Curve) -> tuple[str, str]:
    """HOLDS if p_uncond 0.5 has a larger minimum distance, and larger distances at equal score.

    IN_PART if only the first is true, or the second at more than half of the points.
    """
    least = min(half.metric("fid")), min(curve.metric("fid"))
    worse, count = _worse_at_equal_score(half, curve.results)
    text = (
        f"minimum distance {least[1]:.3f}, against {least[0]:.3f} for p_uncond = 0.5, which has "
        f"the larger distance at {worse} of {count} points of equal score"
    )
    greater = least[0] > least[1]
    return _verdict(greater and worse == count, greater or 2 * worse > count), text


def _steps_saturate(curves: Sequence[Curve]) -> Claim:
    """HOLDS if beyond some T, larger T lower the minimum distance by at most LITTLE of it."""
    sentence = f"Beyond some T, more steps lower the distance by at most {100 * LITTLE:g} per cent."
    shared = set.intersection(*({w for w, _ in _guided(curve, "fid")} for curve in curves))
    if len(curves) < 2 or not shared:
        return Claim(sentence, NOT_MEASURED, ["needs the same w at two or more T: add a T"])
    least = [min(value for w, value in _guided(curve, "fid") if w in shared) for curve in curves]
    gains = [1 - min(least[i + 1 :]) / least[i] for i in range(len(least) - 1)]
    enough = next((i for i, gain in enumerate(gains) if gain <= LITTLE), None)
    text = "minimum distance over common w: " + ", ".join(
        f"{value:.3f} at {curve.name}" for curve, value in zip(curves, least, strict=True)
    )
    if enough is None:
        said = f"; {100 * gains[-1]:.1f} per cent lower beyond {curves[-2].name}"
        return Claim(sentence, FAILS, [text + said])
    change = f"{100 * gains[enough]:.1f} per cent lower" if gains[enough] > 0 else "not lower"
    return Claim(sentence, HOLDS, [f"{text}; {change} beyond {curves[enough].name}"])


def _classifier_trades(curve: Curve, results: Sequence[Result]) -> tuple[str, str] | None:
    """HOLDS if the score ends above its start and the distance above its minimum."""
    if len(curve.results) < 2:
        return None
    score, distance = curve.metric("is"), curve.metric("fid")
    text = (
        f"score {score[0]:.3f} to {score[-1]:.3f}, distance {distance[0]:.3f} to "
        f"{distance[-1]:.3f}, minimum {min(distance):.3f}, over classifier weights "
        f"{curve.values[0]:g} to {curve.values[-1]:g}"
    )
    worse, count = _worse_at_equal_score(curve, _alongside(curve, results))
    text += f"; distance larger than with w at {worse} of {count} equal scores" if count else ""
    return _verdict(score[-1] > score[0] and distance[-1] > min(distance)), text


def _temperatures_lose(curve: Curve, results: Sequence[Result]) -> tuple[str, str] | None:
    """HOLDS if guidance reaches the score of every temperature cell at no larger distance."""
    guided = _alongside(curve, results)
    cells = [result for result in curve.results if moved(result)]
    if not guided:
        return None
    beaten = [_least_distance(guided, c.metrics["is"]) <= c.metrics["fid"] for c in cells]
    text = ", ".join(
        f"{cell.swept[curve.parameter]:g}: {cell.metrics['fid']:.3f} / {cell.metrics['is']:.3f}"
        + (" (beaten)" if lost else " (not beaten)")
        for cell, lost in zip(cells, beaten, strict=True)
    )
    return _verdict(all(beaten), any(beaten)), text


def _guided(curve: Curve, metric: str) -> list[tuple[float, float]]:
    """(w, value) for w >= 0: the unconditional model is not on the curve."""
    pairs = zip(curve.values, curve.metric(metric), strict=True)
    return [(w, value) for w, value in pairs if w >= 0]


def _falls(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """Neighbouring pairs whose second value is not above the first, as text."""
    return [_way(one, other) for one, other in itertools.pairwise(pairs) if other[1] <= one[1]]


def _way(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f"{_at(start)} to {_at(end)}"


def _at(pair: tuple[float, float]) -> str:
    return f"{pair[1]:.3f} at w = {pair[0]:g}"


def _points(results: Sequence[Result]) -> list[tuple[float, float]]:
    """(score, distance) in ascending order."""
    return sorted((result.metrics["is"], result.metrics["fid"]) for result in results)


def _worse_at_equal_score(curve: Curve, guided: Sequence[Result]) -> tuple[int, int]:
    """(cells with larger distance than guidance interpolated at their score, cells compared)."""
    if not guided:
        return 0, 0
    scores, distances = zip(*_points(guided), strict=True)
    spanned = [pair for pair in _points(curve.results) if scores[0] <= pair[0] <= scores[-1]]
    worse = [value > np.interp(score, scores, distances) for score, value in spanned]
    return int(np.sum(worse)), len(spanned)


def _least_distance(guided: Sequence[Result], score: float) -> float:
    """Minimum distance at `score` or above, over guided cells and the lines between them."""
    points = _points(guided)
    reached = [distance for found, distance in points if found >= score]
    if reached and points[0][0] <= score:
        reached.append(float(np.interp(score, *zip(*points, strict=True))))
    return min(reached, default=np.inf)


def _alongside(curve: Curve, results: Sequence[Result]) -> list[Result]:
    """Cells of the same model, T and step rule that are guided by w alone, w >= 0."""
    swept = curve.results[-1].swept
    return [
        result
        for result in results
        if moved(result) is None and result.swept["w"] >= 0 and is_alongside(result, swept)
    ]

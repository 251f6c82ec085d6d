"""Which of the paper's claims hold for the cells of a sweep?

Each verdict is computed from the numbers it comes with; one that cannot be, for want of cells, is
"not measured". The claims are those of Ho & Salimans 2022, section 4, and of Dhariwal & Nichol
2021, appendix G, on temperatures; the tables of the former pass all of theirs.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from cfg_jax.evaluation.result import Result
from cfg_jax.study.curves import NUM_STEPS, P_UNCOND, Curve, guidance_family, moved, older_ways

HOLDS, IN_PART, FAILS, NOT_MEASURED = "holds", "holds in part", "does not hold", "not measured"

SMALL_W = 0.5
"""The paper's lowest FIDs are at w = 0.1 and 0.3 to 0.4."""

LITTLE = 0.05
"""Share of the distance that counts as little: table 2 gains 20 per cent from T = 128 to 256, none
from 256 to 1024."""


class Claim(NamedTuple):
    """A sentence of the paper, one of the four verdicts, and the numbers it rests on, in lines."""

    claim: str
    verdict: str
    numbers: list[str]


def check_claims(results: Sequence[Result]) -> list[Claim]:
    """The paper's claims on these cells; those on other ways only where there are such cells.

    Raises:
      ValueError: results of unlike protocols, or none guided by w alone.
    """
    over_p, over_t = (guidance_family(results, over) for over in (P_UNCOND, NUM_STEPS))
    curves = list(over_p)
    known = [curve.results for curve in over_p]
    curves += [curve for curve in over_t if curve.results not in known]
    ways = older_ways(results)
    found = [
        score_rises(curves),
        distance_dips(curves),
        half_unconditional_is_worse(over_p),
        steps_saturate(over_t),
    ]
    if any(curve.parameter == "classifier_w" for curve in ways):
        found.append(classifier_trades_too(ways, results))
    if any(curve.parameter != "classifier_w" for curve in ways):
        found.append(temperatures_do_not(ways, results))
    return found


def summary(claims: Sequence[Claim]) -> str:
    """Claims, verdicts and numbers as lines of text."""
    return "\n".join(
        "\n".join([f"{claim.verdict.upper()}: {claim.claim}", *(f"    {n}" for n in claim.numbers)])
        for claim in claims
    )


def score_rises(curves: Sequence[Curve]) -> Claim:
    """The score at every weight is above that at the one before, on every curve.

    In part where it falls somewhere, but less often than it rises, and ends above its start.
    """

    def judged(curve: Curve):
        pairs = _guided(curve, "is")
        if len(pairs) < 2:
            return None
        falls = [(a, b) for a, b in zip(pairs, pairs[1:], strict=False) if b[1] <= a[1]]
        text = _way(pairs[0], pairs[-1])
        if falls:
            text += ", but " + ", ".join(_way(*fall) for fall in falls)
        mostly = 2 * len(falls) < len(pairs) - 1 and pairs[-1][1] > pairs[0][1]
        return not falls or (None if mostly else False), text

    return _claim("The score rises with the guidance weight w.", curves, judged)


def distance_dips(curves: Sequence[Curve]) -> Claim:
    """argmin of the distance is in (0, SMALL_W], and every later one is above that before it."""

    def judged(curve: Curve):
        pairs = _guided(curve, "fid")
        if not any(0 < w <= SMALL_W for w, _ in pairs) or pairs[-1][0] <= SMALL_W:
            return None
        least = min(range(len(pairs)), key=lambda i: pairs[i][1])
        after = pairs[least:]
        falls = [(a, b) for a, b in zip(after, after[1:], strict=False) if b[1] <= a[1]]
        text = f"lowest {pairs[least][1]:.3f} at w = {pairs[least][0]:g}"
        ends = [pairs[i] for i in (0, len(pairs) - 1) if i != least]
        text += "".join(f", {value:.3f} at w = {w:g}" for w, value in ends)
        if falls:
            text += "; falls again, " + ", ".join(_way(*fall) for fall in falls)
        return 0 < pairs[least][0] <= SMALL_W and not falls, text

    sentence = (
        f"The Frechet distance is lowest at a small w, above 0 and {SMALL_W:g} at most, and rises "
        "with w from there."
    )
    return _claim(sentence, curves, judged)


def half_unconditional_is_worse(curves: Sequence[Curve]) -> Claim:
    """The curve of p_uncond 0.5 has a greater least distance, and a greater one at equal score.

    In part where one of the two is so, or the second at more than half of the points.
    """
    halves = [curve for curve in curves if curve.results[0].swept["p_uncond"] == 0.5]
    rest = [curve for curve in curves if 0 < curve.results[0].swept["p_uncond"] < 0.5]

    def judged(other: Curve):
        if not halves:
            return None
        half = halves[0]
        least = min(half.metric("fid")), min(other.metric("fid"))
        text = f"lowest distance of p_uncond = 0.5 {least[0]:.3f}, of the other {least[1]:.3f}"
        pairs = _at_equal_score(half, other)
        worse = sum(a > b for a, b in pairs)
        text += f"; at equal score greater at {worse} of {len(pairs)} points"
        held = least[0] > least[1] and worse == len(pairs)
        in_part = least[0] > least[1] or 2 * worse > len(pairs)
        return held or (None if in_part else False), text

    sentence = "p_uncond = 0.5 is worse than 0.1 and 0.2: a greater distance at equal score."
    return _claim(sentence, rest, judged)


def steps_saturate(curves: Sequence[Curve]) -> Claim:
    """Some T is such that every greater one lowers the least distance by LITTLE of it at most."""
    sentence = (
        f"Beyond some T more steps help little, by {100 * LITTLE:g} per cent of the distance at "
        "most."
    )
    shared = set.intersection(*({w for w, _ in _guided(curve, "fid")} for curve in curves))
    if len(curves) < 2 or not shared:
        return Claim(sentence, NOT_MEASURED, ["needs two T or more at the same w"])
    least = [min(value for w, value in _guided(curve, "fid") if w in shared) for curve in curves]
    gains = [1 - min(least[i + 1 :]) / least[i] for i in range(len(least) - 1)]
    enough = next((i for i, gain in enumerate(gains) if gain <= LITTLE), None)
    text = "lowest distance over the same w: " + ", ".join(
        f"{value:.3f} at {curve.name}" for curve, value in zip(curves, least, strict=True)
    )
    if enough is None:
        said = f"; from {curves[-2].name} on still lower by {100 * gains[-1]:.1f} per cent"
        return Claim(sentence, FAILS, [text + said])
    change = f"lower by {100 * gains[enough]:.1f} per cent" if gains[enough] > 0 else "no lower"
    return Claim(sentence, HOLDS, [f"{text}; beyond {curves[enough].name} {change}"])


def classifier_trades_too(ways: Sequence[Curve], results: Sequence[Result]) -> Claim:
    """With a classifier the score rises from first to last weight, the distance past its least."""

    def judged(curve: Curve):
        if len(curve.results) < 2:
            return None
        score, distance = curve.metric("is"), curve.metric("fid")
        text = (
            f"score {score[0]:.3f} to {score[-1]:.3f}, distance {distance[0]:.3f} to "
            f"{distance[-1]:.3f}, lowest {min(distance):.3f}, over classifier weights "
            f"{curve.values[0]:g} to {curve.values[-1]:g}"
        )
        guided = _alongside(curve, results)
        pairs = _at_equal_score(curve, Curve("", "w", guided)) if len(guided) > 1 else []
        if pairs:
            worse = sum(a > b for a, b in pairs)
            text += f"; at equal score a greater distance than by w at {worse} of {len(pairs)}"
        return score[-1] > score[0] and distance[-1] > min(distance), text

    chosen = [curve for curve in ways if curve.parameter == "classifier_w"]
    return _claim("Classifier guidance makes the same trade.", chosen, judged)


def temperatures_do_not(ways: Sequence[Curve], results: Sequence[Result]) -> Claim:
    """Every cell with a temperature is at a greater distance than guidance is at no lower score.

    Between two weights the distance at a score is interpolated.
    """

    def judged(curve: Curve):
        guided = _alongside(curve, results)
        cells = [result for result in curve.results if moved(result)]
        if not guided:
            return None
        beaten = [_least_distance(guided, c.metrics["is"]) <= c.metrics["fid"] for c in cells]
        text = ", ".join(
            f"{cell.swept[curve.parameter]:g}: {cell.metrics['fid']:.3f} / "
            f"{cell.metrics['is']:.3f}" + (" (beaten)" if lost else " (not beaten)")
            for cell, lost in zip(cells, beaten, strict=True)
        )
        return (all(beaten) or (None if any(beaten) else False)), text

    sentence = (
        "Temperatures on noise or score are no substitute: guidance reaches their score at no "
        "greater distance."
    )
    return _claim(sentence, [c for c in ways if c.parameter != "classifier_w"], judged)


def _claim(sentence: str, curves: Iterable[Curve], judged) -> Claim:
    """The verdict over curves; `judged` gives (True, False or None for in part, text), or None."""
    found = [(curve.name, judged(curve)) for curve in curves]
    found = [(name, *verdict) for name, verdict in found if verdict is not None]
    if not found:
        return Claim(sentence, NOT_MEASURED, ["not enough cells"])
    held = [verdict for _, verdict, _ in found]
    verdict = HOLDS if all(held) else FAILS if all(h is False for h in held) else IN_PART
    return Claim(sentence, verdict, [f"{name}: {text}" for name, _, text in found])


def _guided(curve: Curve, metric: str) -> list[tuple[float, float]]:
    """(w, number) where w is 0 or more: the unconditional model is off the curve."""
    pairs = zip(curve.values, curve.metric(metric), strict=True)
    return [(w, value) for w, value in pairs if w >= 0]


def _way(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f"{start[1]:.3f} at w = {start[0]:g} to {end[1]:.3f} at w = {end[0]:g}"


def _at_equal_score(curve: Curve, other: Curve) -> list[tuple[float, float]]:
    """(distance, the other's at that score, interpolated) where the other curve has that score."""
    other_pairs = sorted(zip(other.metric("is"), other.metric("fid"), strict=True))
    scores, distances = np.array(other_pairs).T
    return [
        (distance, float(np.interp(score, scores, distances)))
        for score, distance in zip(curve.metric("is"), curve.metric("fid"), strict=True)
        if scores[0] <= score <= scores[-1]
    ]


def _least_distance(guided: Sequence[Result], score: float) -> float:
    """Of these cells and the straight lines between them where the score is not below `score`."""
    pairs = sorted((result.metrics["is"], result.metrics["fid"]) for result in guided)
    reached = [distance for found, distance in pairs if found >= score]
    if reached and pairs[0][0] <= score:
        reached.append(float(np.interp(score, *zip(*pairs, strict=True))))
    return min(reached, default=np.inf)


def _alongside(curve: Curve, results: Sequence[Result]) -> list[Result]:
    """The cells of the same model and T that are guided by w alone, w 0 or more."""
    swept = curve.results[-1].swept
    return [
        result
        for result in results
        if moved(result) is None
        and result.swept["w"] >= 0
        and all(result.swept[name] == swept[name] for name in ("model", "num_steps", "step"))
    ]

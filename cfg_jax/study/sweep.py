"""How do samples change with guidance, p_uncond and the number of steps?

    runs = share_programs([Run(workdir, load_model(workdir)) for workdir in workdirs])
    results = list(measure(plan(runs, weights=[0, 0.3, 1]), network, reference, ...))

A cell is one model sampled with one setting. A sweep evaluates each cell with
`evaluation.evaluate`, or loads the earlier result from the run's folder. The guidance weight is
data, so one program is compiled per network and T. All cells share the noise of the seed. `curves`,
`plots`, `claims`, `report` and `files` process the results.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cfg_jax import evaluation
from cfg_jax.core.arguments import seed_of, whole
from cfg_jax.evaluation import Reference, Result, Samples, SamplingSettings, title
from cfg_jax.evaluation.networks import FeatureNetwork
from cfg_jax.io.progress import duration
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.study import curves, seeds

NEEDED = ("fid", "is")
"""Metrics that every table and plot needs."""


class Run(NamedTuple):
    """A trained model and its run folder, which stores the results."""

    workdir: Path
    model: Model


class Cell(NamedTuple):
    """One evaluation: a run, sampling settings, and the guiding classifier, if any."""

    run: Run
    sampling: SamplingSettings
    classifier: NoisyClassifier | None = None
    weaker: Model | None = None

    def samples(self, **numbered) -> Samples:
        """Samples of this cell; num_samples, label_plan and seed as for `Samples`."""
        own = {"sampling": self.sampling, "classifier": self.classifier, "weaker": self.weaker}
        return Samples(self.run.model, **own, **numbered)


class OlderWays(NamedTuple):
    """Baselines with the same trade-off (Dhariwal & Nichol 2021), on the first run.

    classifier, classifier_form: noisy classifier that guides the model, and how.
    classifier_on: weight w of the guided model, 0 (conditional) or -1 (unconditional).
    classifier_weights, noise_temperatures, score_temperatures: one cell per value.
    num_steps: T; the first of the sweep if None.
    """

    classifier: NoisyClassifier | None = None
    classifier_weights: Sequence[float] = ()
    classifier_form: str = "eps"
    classifier_on: float = 0.0
    noise_temperatures: Sequence[float] = ()
    score_temperatures: Sequence[float] = ()
    num_steps: int | None = None


def share_programs(runs: Sequence[Run]) -> list[Run]:
    """The same runs; runs of one network and schedule share a compiled sampler."""
    first: dict[tuple, Model] = {}
    for _, model in runs:
        first.setdefault((model.experiment, model.label_names), model)
    return [
        Run(workdir, model.sharing(first[model.experiment, model.label_names]))
        for workdir, model in runs
    ]


def plan(
    runs: Sequence[Run],
    *,
    weights: Sequence[float],
    num_steps: Sequence[int] = (),
    other_weights: Sequence[float] | None = None,
    common: SamplingSettings = SamplingSettings(),  # noqa: B008  (a constant)
    variants: Sequence[SamplingSettings] = (),
    weaker: Model | None = None,
    older: OlderWays = OlderWays(),  # noqa: B008
) -> list[Cell]:
    """Cells of a sweep: the first run at each T, the other runs at the first T.

    Raises ValueError, naming the run, if `Model.check` rejects the settings.

    Args:
      weights: guidance weights w of the first run at the first T.
      num_steps: values of T; the first run's own T if empty.
      other_weights: w at the other T and for the other runs; `weights` if None.
      common: settings of all cells but the variants; its w is ignored. Its num_steps, unless None,
        takes the place of those above.
      variants: other settings, of solver or guidance, for the first run at their num_steps, or
        at every T if that is None.
      weaker: weaker model of autoguidance, for all cells but the baselines.
      older: baselines on the first run.
    """
    other_weights = weights if other_weights is None else other_weights
    steps = [int(count) for count in num_steps] or [None]
    own_steps = steps if common.num_steps is None else [common.num_steps]
    base = common.replace(num_steps=own_steps[0])
    cells = [Cell(runs[0], base.replace(w=float(w))) for w in weights]
    for count in own_steps[1:]:
        other = base.replace(num_steps=count)
        cells += [Cell(runs[0], other.replace(w=float(w))) for w in other_weights]
    for run in runs[1:]:
        cells += [Cell(run, base.replace(w=float(w))) for w in other_weights]
    for variant in variants:
        for count in steps if variant.num_steps is None else [variant.num_steps]:
            other = variant.replace(num_steps=count)
            cells += [Cell(runs[0], other.replace(w=float(w))) for w in other_weights]
    cells = [cell._replace(weaker=weaker) for cell in cells]
    cells += _older_cells(runs[0], base, older)
    for cell in cells:  # check all before hours are spent on any
        try:
            guides = {"classifier": cell.classifier, "weaker": cell.weaker}
            cell.run.model.check(cell.sampling, **guides)
        except ValueError as error:
            raise ValueError(f"{cell.run.workdir}: {error}") from None
    named = {}
    for cell in cells:
        place = str(cell.run.workdir), id(cell.classifier)
        named.setdefault((*place, repr(cell.run.model.filled(cell.sampling))), cell)
    return list(named.values())


def _older_cells(run: Run, base: SamplingSettings, older: OlderWays) -> list[Cell]:
    base = base.replace(w=0.0, num_steps=older.num_steps or base.num_steps)
    on = base.replace(w=float(older.classifier_on), classifier_form=older.classifier_form)
    cells = [
        Cell(run, on.replace(classifier_w=float(by)), older.classifier)
        for by in older.classifier_weights
    ]
    for field in ("noise_temperature", "score_temperature"):
        values = getattr(older, f"{field}s")
        cells += [Cell(run, base.replace(**{field: float(value)})) for value in values]
    return cells


def measure(
    cells: Sequence[Cell],
    network: FeatureNetwork,
    reference: Reference,
    *,
    metrics: Sequence[str] = NEEDED,
    batch_size: int = 256,
    num_seeds: int = 1,
    **numbered,
) -> Iterator[Result]:
    """Yields the result of every cell and prints a line per result.

    Like `cfg-jax evaluate`, stores results in `<workdir>/evaluations`. With several seeds, from
    `seed` on, a result is a mean of `seeds.mean`. `numbered` has num_samples, label_plan and seed
    of `Samples`; other arguments as for `evaluate`. Raises as `check_measurable` and `evaluate`.
    """
    check_measurable(cells, metrics, num_seeds, **numbered)
    first = numbered.pop("seed", 0)
    pace = math.inf  # seconds per call of the fastest cell, since others also compile
    for number, cell in enumerate(cells, 1):
        begun = time.monotonic()
        found = [
            evaluation.evaluate(
                cell.samples(**numbered, seed=seed),
                network,
                reference,
                folder=cell.run.workdir / "evaluations",
                metrics=metrics,
                batch_size=batch_size,
            )
            for seed in range(first, first + num_seeds)
        ]
        result = seeds.mean(found)
        seconds = time.monotonic() - begun
        if seconds > 1:  # a loaded cell does not predict the time of others
            pace = min(pace, seconds / _calls(cell))
        rest = sum(map(_calls, cells[number:]))
        left = f", {duration(pace * rest)} left" if rest and pace < math.inf else ""
        print(f"cell {number}/{len(cells)}  {_said(result)}  {seconds:.0f} s{left}", flush=True)
        yield result


def check_measurable(
    cells: Sequence[Cell], metrics: Sequence[str], num_seeds: int = 1, **numbered
) -> None:
    """Raises ValueError if metrics lack one of NEEDED, and as `evaluation.check_request`."""
    first = seed_of(numbered.pop("seed", 0))
    last = seed_of(first + whole("num_seeds", num_seeds, 1) - 1)
    lacking = [name for name in NEEDED if name not in metrics]
    if lacking:
        raise ValueError(
            f"metrics={','.join(metrics)}: the tables of a sweep need "
            f"{' and '.join(map(repr, NEEDED))}: add {' and '.join(map(repr, lacking))}"
        )
    for cell in cells:
        evaluation.check_request(cell.samples(**numbered, seed=last), metrics)


def runs_of(cells: Sequence[Cell]) -> list[Run]:
    """Distinct runs of the cells, in order."""
    return list({str(cell.run.workdir): cell.run for cell in cells}.values())


def _calls(cell: Cell) -> int:
    model = cell.run.model
    return model.filled(cell.sampling).num_calls(model.experiment)


def _said(result: Result) -> str:
    numbers = ", ".join(
        f"{title(name, result.protocol)} {seeds.text(result, name, 3)}" for name in NEEDED
    )
    return f"{curves.describe(result.swept)}: {numbers}"

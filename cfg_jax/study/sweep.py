"""How do samples change with guidance, p_uncond and the number of steps?

    runs = share_programs([Run(workdir, load_model(workdir)) for workdir in workdirs])
    results = list(measure(plan(runs, weights=[0, 0.3, 1]), network, reference, ...))

A sweep is cells, each one `evaluation.evaluate` in its run's own folder: one that was measured
before is read back. The guidance weight is data, so there is one program for each network and T;
noise is that of the seed, the same in every cell. What the results add up to is left to `curves`,
`plots`, `claims` and `report`, and files to `files`.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cfg_jax import evaluation
from cfg_jax.evaluation import Reference, Result, Samples, SamplingSettings, title
from cfg_jax.evaluation.networks import FeatureNetwork
from cfg_jax.io import images
from cfg_jax.io.images import Picture
from cfg_jax.sampling import strips
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.storage import manifest
from cfg_jax.study import curves

STRIP_LABELS = 10
NEEDED = ("fid", "is")
"""Metrics that every table and plot is of."""


class Run(NamedTuple):
    """A trained model and the folder that it came from, where its cells are kept."""

    workdir: Path
    model: Model


class Cell(NamedTuple):
    """One evaluation: a run, guidance and sampler, and the classifier that guides, if any."""

    run: Run
    sampling: SamplingSettings
    classifier: NoisyClassifier | None = None

    def samples(self, **numbered) -> Samples:
        """Its samples, given num_samples, label_plan and seed as `Samples` has them."""
        own = {"sampling": self.sampling, "classifier": self.classifier}
        return Samples(self.run.model, **own, **numbered)


class OlderWays(NamedTuple):
    """Other ways to the same trade (Dhariwal & Nichol 2021), on the first run.

    classifier, classifier_form: guides the model at `classifier_on`, 0 conditional, -1 not.
    classifier_weights, noise_temperatures, score_temperatures: one cell for each number.
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
    """The same runs, those of one network and schedule with one compiled sampler between them."""
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
    older: OlderWays = OlderWays(),  # noqa: B008
) -> list[Cell]:
    """The cells of a sweep: w of the first run at each T, w of the other runs at the first T.

    Args:
      weights: guidance weights w of the first run at the first T.
      num_steps: T; the first run's own if empty.
      other_weights: w at the other T and of the other runs; `weights` if None.
      common: what all cells share; its w and num_steps are not used.
      older: classifier and temperatures, on the first run.

    Raises:
      ValueError: settings that `Model.check` refuses, with the run.
    """
    other_weights = weights if other_weights is None else other_weights
    steps = [int(count) for count in num_steps] or [None]
    base = common.replace(num_steps=steps[0])
    cells = [Cell(runs[0], base.replace(w=float(w))) for w in weights]
    for count in steps[1:]:
        other = base.replace(num_steps=count)
        cells += [Cell(runs[0], other.replace(w=float(w))) for w in other_weights]
    for run in runs[1:]:
        cells += [Cell(run, base.replace(w=float(w))) for w in other_weights]
    cells += _older_cells(runs[0], base, older)
    for cell in cells:  # refused before hours are spent on the cells before it
        try:
            cell.run.model.check(cell.sampling, classifier=cell.classifier)
        except ValueError as error:
            raise ValueError(f"{cell.run.workdir}: {error}") from None
    named = {(str(cell.run.workdir), cell.sampling, id(cell.classifier)): cell for cell in cells}
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
    **numbered,
) -> Iterator[Result]:
    """The result of every cell, with a printed line for each.

    Cells are kept in `<workdir>/evaluations` of their run, where `launch.evaluate` keeps its own.
    Raises as `check_measurable` and `evaluate`.

    Args:
      network, reference, metrics, batch_size: as for `evaluate`.
      **numbered: num_samples, label_plan and seed, as for `Samples`.
    """
    check_measurable(cells, metrics, **numbered)
    done, spent = 0.0, 0.0
    for number, cell in enumerate(cells, 1):
        begun = time.monotonic()
        result = evaluation.evaluate(
            cell.samples(**numbered),
            network,
            reference,
            folder=cell.run.workdir / "evaluations",
            metrics=metrics,
            batch_size=batch_size,
        )
        seconds = time.monotonic() - begun
        if seconds > 1:  # a cell read back tells nothing of the time that others take
            done, spent = done + _calls(cell), spent + seconds
        rest = sum(map(_calls, cells[number:]))
        left = f", {spent / done * rest / 60:.0f} min left" if done and rest else ""
        print(f"cell {number}/{len(cells)}  {_said(result)}  {seconds:.0f} s{left}", flush=True)
        yield result


def check_measurable(cells: Sequence[Cell], metrics: Sequence[str], **numbered) -> None:
    """Refuses what `measure` could not do, before a reference is computed for it.

    ValueError for metrics without NEEDED, and what `evaluation.check_request` refuses.
    """
    lacking = [name for name in NEEDED if name not in metrics]
    if lacking:
        raise ValueError(
            f"metrics={','.join(metrics)}: a sweep's tables are of {' and '.join(NEEDED)}; add "
            f"{' and '.join(lacking)}"
        )
    for cell in cells:
        evaluation.check_request(cell.samples(**numbered), metrics)


def runs_of(cells: Sequence[Cell]) -> list[Run]:
    """The runs of the cells, each once, in order."""
    return list({str(cell.run.workdir): cell.run for cell in cells}.values())


def _calls(cell: Cell) -> int:
    return len(cell.run.model.grid(cell.sampling.num_steps, cell.sampling.respacing))


def _said(result: Result) -> str:
    numbers = ", ".join(
        f"{title(name, result.protocol)} {result.metrics[name]:.3f}" for name in NEEDED
    )
    return f"{curves.describe(result.swept)}: {numbers}"


def strip(
    run: Run, folder: Path, weights: Sequence[float], sampling: SamplingSettings, seed: int
) -> Picture:
    """Guided samples, rows labels and columns w; drawn once, and kept in `folder` as a PNG.

    Of `sampling` w, the classifier and the temperatures are not used.
    """
    model = run.model
    labels = list(range(min(STRIP_LABELS, model.null_label)))
    names = ("num_steps", "step", "logvar_interp", "clip_x", "respacing")
    options = {name: getattr(sampling, name) for name in names}
    identity = [model.sha256, list(map(float, weights)), options, seed, labels]
    path = folder / f"strip_{manifest.sha256_json(identity)[:12]}.png"
    if not path.exists():
        settings = SamplingSettings(**options)
        drawn = strips.Strip(model, labels, weights, settings=settings, seed=seed)
        images.save_png(path, drawn.picture(drawn.draw()))
    return images.read_picture(path)

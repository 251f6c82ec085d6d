"""Evaluates runs over guidance weights and numbers of sampling steps, and writes a report.

    cfg-jax sweep --workdir=runs/p01,runs/p02 --w=0,0.1,0.3,1,4 --num_steps=256,128 \\
        --inception=inception.safetensors --reference=VIRTUAL_imagenet64.npz

The first run is evaluated at every T of --num_steps, the other runs at the first T. A classifier
and temperatures add baselines to the first run. Results are saved in <workdir>/evaluations and
reused. Tables in the paper's format, results.csv, results.json, plots and report.html go to --out.
"""

from pathlib import Path

from absl import flags

from . import baselines, features, solver
from . import flags as sampling
from .program import run
from .values import adapt, numbers, whole_numbers

_WORKDIR = flags.DEFINE_list(
    "workdir",
    None,
    "Comma-separated folders of training runs, one per p_uncond; required.",
    required=True,
)
_OTHER_W = flags.DEFINE_string(
    "other_w",
    None,
    "Comma-separated guidance weights w for all runs but the first and all T but the first; --w if "
    "unset.",
)
_STRIP_W = flags.DEFINE_string(
    "strip_w",
    None,
    "Comma-separated guidance weights w of the samples shown in the report. If unset, those of the "
    "measured cells; of more than five the lowest, that of the lowest distance, and the highest.",
)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <first workdir>/sweep if unset.")
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds",
    1,
    "Number of seeds, from --seed on; with several, results are means with standard errors.",
    lower_bound=1,
)
adapt("w", "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1,2,3,4")
adapt("num_samples", 50_000)
adapt("metrics", "fid,is", "fid and is are needed.")
adapt("split", also="The training split if unset.")
adapt("classifier_w", also="Here, any number of values, and a baseline for each.")
for _name in ("noise_temperature", "score_temperature"):
    adapt(_name, "", "A comma-separated list; a baseline for each.")
for _name in ("num_steps", "solver", "schedule", "dtype"):
    adapt(_name, also="A comma-separated list; all are evaluated.")
for _name in ("interval", "rule", "against"):
    adapt(_name, also="A list separated by semicolons; all are evaluated.")


def check() -> None:
    """Raises ValueError for flags that cannot be read."""
    sampling.check()
    for name in ("other_w", "strip_w"):
        numbers(name)


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.io.files import check_writable, folder
    from cfg_jax.runtime import processes
    from cfg_jax.study import claims, figures, files, report, sweep, tiles
    from cfg_jax.study.tables import tables

    out = folder(_OUT.value or f"{_WORKDIR.value[0]}/sweep")
    check_writable(out, "--out")
    cells = _cells()
    runs = {
        f"p_uncond = {each.model.config.diffusion.p_uncond:g}, {each.workdir}": each
        for each in sweep.runs_of(cells)
    }
    strips = _strips(cells, runs)
    results = _measured(cells, out)
    if not processes.is_first():
        return
    sampling.report_first_samples(cells[0].run.model)
    if not _STRIP_W.value:
        strips = {k: tiles.at_measured_weights(each, results) for k, each in strips.items()}
    records = {}
    for name, each in runs.items():
        if losses := figures.read_losses(each.workdir):
            records[name] = losses
    found = figures.frontiers(results)
    files.write(out, results, found)
    report.write_report(
        out / "report.html",
        results,
        plots=found,
        strips={name: tiles.tiles(each, out) for name, each in strips.items()},
        losses=figures.loss_curves(records) if records else None,
    )
    for name, table in tables(results).items():
        if name != "table_cells":
            print(f"\n{table.text()}", end="")
    print(f"\n{claims.summary(claims.check_claims(results))}\n")
    for line in claims.cautions(results):
        print(f"warning: {line}")
    print(out / "report.html")


def _cells() -> list:
    """The cells requested by the flags."""
    from cfg_jax.io.files import folder
    from cfg_jax.sampling.loading import load_model
    from cfg_jax.study import sweep

    places, step = map(folder, _WORKDIR.value), sampling.CHECKPOINT.value
    common, *variants = sampling.variants()
    runs = [sweep.Run(place, load_model(place, step)) for place in places]
    return sweep.plan(
        sweep.share_programs(runs),
        weights=numbers("w"),
        num_steps=whole_numbers("num_steps"),
        other_weights=numbers("other_w") or None,
        common=common,
        variants=variants,
        weaker=solver.load_weaker(),
        older=baselines.requested(),
    )


def _strips(cells: list, runs: dict) -> dict:
    """A strip of samples of every run that w guides, checked before hours are spent on cells."""
    from cfg_jax.study import tiles

    weights = numbers("strip_w") or numbers("w")
    shown = weights, cells[0].sampling, sampling.SEED.value, cells[0].weaker
    strips = {
        name: tiles.strip_of(each.model, *shown)
        for name, each in runs.items()
        if each.model.guides_itself
    }
    for each in strips.values():
        each.check()
    return strips


def _measured(cells: list, out: Path) -> list:
    """The results of all cells; results.json and results.csv are written after each."""
    from cfg_jax.runtime import processes
    from cfg_jax.study import files, sweep

    first = cells[0].run
    options = {
        "metrics": features.METRICS.value,
        "num_samples": sampling.NUM_SAMPLES.value,
        "label_plan": sampling.LABEL_PLAN.value,
        "seed": sampling.SEED.value,
        "num_seeds": _NUM_SEEDS.value,
    }
    sweep.check_measurable(cells, **options)
    network, reference = features.network_and_reference(first.model, first.workdir)
    options["batch_size"] = sampling.BATCH_SIZE.value
    results = sweep.measure(cells, network, reference, **options)
    return files.collect(results, out if processes.is_first() else None)


if __name__ == "__main__":
    run(main, check=check)

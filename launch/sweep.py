"""Measures one or several runs over guidance weights and numbers of steps, and writes a report.

    python -m launch.sweep --workdir=runs/digits --w=0,0.1,0.3,1,4 --num_steps=32,8 \\
        --num_samples=5000
    python -m launch.sweep --workdir=runs/p01,runs/p02,runs/p05 --w=0,0.1,0.2,0.3,0.5,1,2,4 \\
        --inception=inception.safetensors --reference=VIRTUAL_imagenet64.npz

The first run is measured at every T, the others at the first T of --num_steps. Every cell is kept
in <workdir>/evaluations of its run, so that a sweep started again measures only what is missing.
Writes tables in the shape of the paper's (its numbers beside ours where model, sampler and protocol
are the same), results.csv, results.json, plots and report.html. A classifier and temperatures are
further curves of the first run.
"""

from absl import flags

from launch import features
from launch import flags as sampling
from launch.program import numbers, run, whole_numbers

_WORKDIR = flags.DEFINE_list(
    "workdir", None, "Folders of training runs, one for each p_uncond.", required=True
)
_OTHER_W = flags.DEFINE_string(
    "other_w", None, "Guidance weights of the other runs and the other T; as --w if unset."
)
_METRICS = flags.DEFINE_list(
    "metrics", ["fid", "is"], "fid, is and more of fid, sfid, is, precision_recall."
)
_SPLIT = flags.DEFINE_string("split", None, "Split to compare with; the training split if unset.")
_CLASSIFIER_ON = flags.DEFINE_float(
    "classifier_on", 0.0, "w of the model that the classifier guides: 0 conditional, -1 not."
)
_OLDER_STEPS = flags.DEFINE_integer(
    "older_num_steps", None, "T of classifier and temperatures; the first of --num_steps if unset."
)
_STRIP_W = flags.DEFINE_string("strip_w", "0,1,4", "Guidance weights of the samples shown.")
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <first workdir>/sweep if unset.")
flags.FLAGS.set_default("w", "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1,2,3,4")
flags.FLAGS.set_default("num_samples", 50_000)
flags.FLAGS.set_default("noise_temperature", "")  # a cell for each value
flags.FLAGS.set_default("score_temperature", "")


def check() -> None:
    """Refuses flags that cannot be read."""
    sampling.check()
    for name in ("other_w", "strip_w"):
        numbers(name)


def main(argv: list[str]) -> None:
    del argv
    from cfg_jax.io.files import folder
    from cfg_jax.runtime import processes
    from cfg_jax.study import claims, files, plots, report, sweep

    out = folder(_OUT.value or f"{_WORKDIR.value[0]}/sweep")
    cells = _cells()
    results = _measured(cells)
    if not processes.is_first():
        return
    if (seconds := cells[0].run.model.first_sample_seconds) is not None:  # None: all were there
        print(f"first samples, with compiling: {seconds:.1f} s")
    runs = {
        f"p_uncond = {run.model.config.diffusion.p_uncond:g}, {run.workdir}": run
        for run in sweep.runs_of(cells)
    }
    shown = numbers("strip_w"), cells[0].sampling, sampling.SEED.value
    strips = {
        name: sweep.strip(run, out, *shown)
        for name, run in runs.items()
        if run.model.has_null_label
    }
    records = {name: plots.read_losses(run.workdir) for name, run in runs.items()}
    records = {name: losses for name, losses in records.items() if losses}
    pictures = plots.frontiers(results)
    written = files.write_numbers(out, results)
    written += files.write_pictures(out, pictures)
    report.write_report(
        out / "report.html",
        results,
        pictures=pictures,
        strips=strips,
        losses=plots.loss_curves(records) if records else None,
    )
    for path in written:
        if path.name in ("table_w.txt", "table_T.txt"):
            print(f"\n{path.read_text()}", end="")
    print(f"\n{claims.summary(claims.check_claims(results))}\n")
    print(out / "report.html")


def _cells() -> list:
    """The cells that the flags ask for."""
    from cfg_jax.io.files import folder
    from cfg_jax.sampling.model import load_model
    from cfg_jax.study import sweep

    older = sweep.OlderWays(
        sampling.load_classifier(),
        numbers("classifier_w"),
        sampling.CLASSIFIER_FORM.value,
        _CLASSIFIER_ON.value,
        numbers("noise_temperature"),
        numbers("score_temperature"),
        _OLDER_STEPS.value,
    )
    runs = [sweep.Run(folder(place), load_model(folder(place))) for place in _WORKDIR.value]
    return sweep.plan(
        sweep.share_programs(runs),
        weights=numbers("w"),
        num_steps=whole_numbers("num_steps"),
        other_weights=numbers("other_w") or None,
        common=sampling.settings(lists=True),
        older=older,
    )


def _measured(cells: list) -> list:
    from cfg_jax.study import sweep

    first = cells[0].run
    options = {
        "metrics": _METRICS.value,
        "num_samples": sampling.NUM_SAMPLES.value,
        "label_plan": sampling.LABEL_PLAN.value,
    }
    sweep.check_measurable(cells, **options)
    network = features.feature_network(first.model, first.workdir)
    reference = features.reference(
        first.model,
        network,
        first.workdir / "evaluations",
        split=_SPLIT.value,
        with_rows="precision_recall" in _METRICS.value,
    )
    options |= {"seed": sampling.SEED.value, "batch_size": sampling.BATCH_SIZE.value}
    return list(sweep.measure(cells, network, reference, **options))


if __name__ == "__main__":
    run(main, check=check)

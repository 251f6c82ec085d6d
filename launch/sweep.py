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

from cfg_jax import evaluation
from cfg_jax.io.files import folder
from cfg_jax.runtime import processes
from cfg_jax.sampling import model
from cfg_jax.study import claims, files, plots, report, sweep
from launch import features
from launch.program import numbers, run

_WORKDIR = flags.DEFINE_list(
    "workdir", None, "Folders of training runs, one for each p_uncond.", required=True
)
_W = flags.DEFINE_string("w", "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1,2,3,4", "Guidance weights.")
_OTHER_W = flags.DEFINE_string(
    "other_w", None, "Those of the other runs and of the other T; as --w if unset."
)
_NUM_STEPS = flags.DEFINE_string("num_steps", None, "Steps T; the first run's own if unset.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 50_000, "For each cell.")
_METRICS = flags.DEFINE_list(
    "metrics", ["fid", "is"], f"fid, is and more of {', '.join(evaluation.METRICS)}."
)
_LABEL_PLAN = flags.DEFINE_enum(
    "label_plan", "balanced", evaluation.LABEL_PLANS, "Labels in turn, or drawn from the seed."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise, the same in every cell.", 0, 2**32 - 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Samples at a time.", lower_bound=1)
_STEP = flags.DEFINE_enum("step", None, ["ancestral", "ddim"], "Step rule; the config's if unset.")
_LOGVAR_INTERP = flags.DEFINE_float("logvar_interp", None, "The paper's v, in [0, 1].")
_SPLIT = flags.DEFINE_string("split", None, "To compare with; the training split if unset.")
_CLASSIFIER = flags.DEFINE_string("classifier_workdir", None, "Folder of a classifier's run.")
_CLASSIFIER_W = flags.DEFINE_string("classifier_w", None, "Its weights, a cell for each.")
_CLASSIFIER_ON = flags.DEFINE_float(
    "classifier_on", 0.0, "w of the model that it guides: 0 conditional, -1 unconditional."
)
_CLASSIFIER_FORM = flags.DEFINE_enum(
    "classifier_form", "eps", ["eps", "adm"], "Guide eps_hat, or as ADM: the mean or the score."
)
_NOISE_TEMPERATURE = flags.DEFINE_string("noise_temperature", "", "Factors of the steps' noise.")
_SCORE_TEMPERATURE = flags.DEFINE_string("score_temperature", "", "Divisors of eps_hat.")
_OLDER_STEPS = flags.DEFINE_integer(
    "older_num_steps", None, "T of classifier and temperatures; the first of --num_steps if unset."
)
_STRIP_W = flags.DEFINE_string("strip_w", "0,1,4", "Guidance weights of the samples shown.")
_OUT = flags.DEFINE_string("out", None, "Folder to write to; <first workdir>/sweep if unset.")


def main(argv: list[str]) -> None:
    del argv
    out = folder(_OUT.value or f"{_WORKDIR.value[0]}/sweep")
    strip_weights = numbers("strip_w", _STRIP_W.value)
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
    strips = {
        name: sweep.strip(run, out, strip_weights, cells[0].sampling, _SEED.value)
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


def _cells() -> list[sweep.Cell]:
    """What the flags ask for."""
    weights = numbers("w", _W.value)
    steps = numbers("num_steps", _NUM_STEPS.value) if _NUM_STEPS.value else []
    if not all(count.is_integer() for count in steps):
        raise ValueError(f"--num_steps={_NUM_STEPS.value}: need whole numbers")
    if (_CLASSIFIER.value is None) != (_CLASSIFIER_W.value is None):
        raise ValueError(
            f"--classifier_workdir={_CLASSIFIER.value or ''} "
            f"--classifier_w={_CLASSIFIER_W.value or ''}: give both, or neither"
        )
    older = sweep.OlderWays(
        model.load_classifier(_CLASSIFIER.value) if _CLASSIFIER.value else None,
        numbers("classifier_w", _CLASSIFIER_W.value) if _CLASSIFIER.value else [],
        _CLASSIFIER_FORM.value,
        _CLASSIFIER_ON.value,
        _listed("noise_temperature", _NOISE_TEMPERATURE.value),
        _listed("score_temperature", _SCORE_TEMPERATURE.value),
        _OLDER_STEPS.value,
    )
    workdirs = [folder(workdir) for workdir in _WORKDIR.value]
    runs = [sweep.Run(workdir, model.load_model(workdir)) for workdir in workdirs]
    return sweep.plan(
        sweep.share_programs(runs),
        weights=weights,
        num_steps=[int(count) for count in steps],
        other_weights=_listed("other_w", _OTHER_W.value) or None,
        common=evaluation.Sampling(step=_STEP.value, logvar_interp=_LOGVAR_INTERP.value),
        older=older,
    )


def _listed(flag: str, text: str | None) -> list[float]:
    return numbers(flag, text) if text else []


def _measured(cells: list[sweep.Cell]) -> list[evaluation.Result]:
    first = cells[0].run
    options = {
        "metrics": _METRICS.value,
        "num_samples": _NUM_SAMPLES.value,
        "label_plan": _LABEL_PLAN.value,
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
    options |= {"seed": _SEED.value, "batch_size": _BATCH_SIZE.value}
    return list(sweep.measure(cells, network, reference, **options))


if __name__ == "__main__":
    run(main)

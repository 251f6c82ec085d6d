"""Flags of the solver, its grid, and guidance that changes over the calls."""

from itertools import product

from absl import flags

from .values import numbers

_SOLVERS = (
    *("ancestral", "ddim", "dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "dpmpp_3s"),
    *("unipc_1", "unipc_2", "unipc_3", "deis_2", "heun", "heun_flow", "pcg"),
)
_DTYPES = ("float32", "bfloat16")
_RUN = "If unset, the value in the config of the run."

SOLVER = flags.DEFINE_string(
    "solver",
    None,
    f"Solver, one of {', '.join(_SOLVERS)}, with options as in dpmpp_2m:eta=0.5 (eta, churn, grid, "
    f"num_steps). The paper's is ancestral; unipc_2 and dpmpp_2m need the fewest calls. {_RUN}",
)
GRID = flags.DEFINE_enum(
    "grid",
    None,
    ["schedule", "uniform", "mixed", "karras"],
    "Log-SNRs of the calls: those of the noise schedule, evenly spaced (uniform), the mean of "
    f"uniform and cosine (mixed), or those of Karras et al. 2022 (karras). {_RUN}",
)
ETA = flags.DEFINE_float(
    "eta",
    None,
    "Noise of the solvers ddim, dpmpp_2m and dpmpp_3m: 0 for none, 1 for as much as in ancestral "
    f"sampling. {_RUN}",
)
CHURN = flags.DEFINE_float(
    "churn",
    None,
    "S_churn of the solvers heun and ddim (Karras et al. 2022, algorithm 2), 40 for their "
    f"ImageNet-64 model; 0 for none. {_RUN}",
)
SCHEDULE = flags.DEFINE_string(
    "schedule",
    None,
    "Change of the guidance weight over the calls: constant, linear, cosine, pcs or cfgpp, with a "
    f"lower limit as in linear:least=0.5. {_RUN}",
)
INTERVAL = flags.DEFINE_string(
    "interval",
    None,
    f"Two log-SNRs LO,HI outside of which calls are not guided and cost half, or none. {_RUN}",
)
RULE = flags.DEFINE_string(
    "rule",
    None,
    "Combination of the branches of guidance: cfg, rescale:phi=0.7, apg:eta=0,r=15,beta=-0.5 or "
    f"zero_star. {_RUN}",
)
AGAINST = flags.DEFINE_string(
    "against",
    None,
    "What guidance points away from: null (no label), random (a random class in every call, "
    "for networks without a null label), a class by name or number, or labels with weights that "
    f"sum to 1, as null:2,7:-1, which points towards class 7 too. {_RUN}",
)
THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Quantile of |x_hat| for dynamic thresholding (Saharia et al. 2022) in place of clipping, "
    f"0.995 in their work; 0 for none. {_RUN}",
)
DTYPE = flags.DEFINE_string(
    "dtype",
    None,
    "Type of the convolutions and matrix products of the network, float32 or bfloat16. If unset, "
    "the value in the config of the run, by default the type of training.",
)
WEAKER_WORKDIR = flags.DEFINE_string(
    "weaker_workdir",
    None,
    "Folder of the training run of a weaker model for autoguidance, in place of the null label; "
    "may be the run itself with an earlier --weaker_checkpoint.",
)
WEAKER_CHECKPOINT = flags.DEFINE_integer(
    "weaker_checkpoint",
    None,
    "Training step of the weaker model's checkpoint, with --weaker_workdir; the newest if unset.",
)
FLAGS = (
    *("solver", "grid", "eta", "churn", "schedule", "interval", "rule", "against", "threshold"),
    *("dtype", "weaker_workdir"),
)


def check() -> None:
    """Raises ValueError for a flag of this module that is unreadable or needs another."""
    solvers = _lists()["solver"]
    for name in _OPTIONS:
        if flags.FLAGS[name].present and all(name in each for each in solvers):
            raise ValueError(
                f"--{name}={flags.FLAGS[name].value} and --solver={SOLVER.value}: give one of them"
            )
    for dtype in _lists()["dtype"]:
        if dtype not in (None, "", *_DTYPES):
            raise ValueError(f"--dtype={DTYPE.value}: {dtype!r} is none of {', '.join(_DTYPES)}")
    if WEAKER_CHECKPOINT.value is not None and WEAKER_WORKDIR.value is None:
        raise ValueError("--weaker_checkpoint needs --weaker_workdir: give that too")


def fields() -> dict:
    """The requested fields of `SamplingSettings`; ValueError for several values of one."""
    for name, values in _lists().items():
        if len(values) > 1:
            raise ValueError(f"--{name}={flags.FLAGS[name].value}: give one, or use sweep")
    return combinations()[0]


def combinations() -> list[dict]:
    """Every combination of the requested values, as fields of `SamplingSettings`; None if unset.

    An option of a solver takes the place of the flag of its name.
    """
    found = _lists()
    chosen = [dict(zip(found, values, strict=True)) for values in product(*found.values())]
    return [fields | fields["solver"] for fields in chosen]


def _lists() -> dict[str, list]:
    return {
        "solver": [_solver(part) for part in _parts(SOLVER.value, ",")],
        "grid": [GRID.value],
        "eta": [ETA.value],
        "churn": [CHURN.value],
        "schedule": _parts(SCHEDULE.value, ","),
        "interval": _intervals(),
        "rule": _parts(RULE.value, ";"),
        "against": _parts(AGAINST.value, ";"),
        "threshold": [THRESHOLD.value],
        "dtype": _parts(DTYPE.value, ","),
    }


def load_weaker():
    """The model of --weaker_workdir and --weaker_checkpoint, or None."""
    from cfg_jax.sampling.loading import load_model

    if WEAKER_WORKDIR.value is None:
        return None
    return load_model(WEAKER_WORKDIR.value, WEAKER_CHECKPOINT.value)


_OPTIONS = {"eta": float, "churn": float, "grid": str, "num_steps": int}


def _solver(part: str | None) -> dict:
    """The fields of a solver with its options, such as "dpmpp_2m:eta=0.5"."""
    name, *options = [None] if part is None else part.split(":")
    found = {"solver": name}
    for option in options:
        key, _, value = option.partition("=")
        try:
            found[key] = _OPTIONS[key](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"--solver={part}: {option!r} is none of eta=NUMBER, churn=NUMBER, grid=NAME, "
                "num_steps=INTEGER"
            ) from None
    return found


def _parts(text: str | None, separator: str) -> list:
    return [None] if text is None else [part.strip() for part in text.split(separator)]


def _intervals() -> list:
    found = []
    for part in _parts(INTERVAL.value, ";"):
        ends = () if part in (None, "none") else tuple(numbers("interval", part))
        if part is not None and part != "none" and len(ends) != 2:
            raise ValueError(f"--interval={INTERVAL.value}: need LO,HI in log-SNR, or none")
        found.append(None if part is None else ends)
    return found

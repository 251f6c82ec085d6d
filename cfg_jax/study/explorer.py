"""Pictures of a trained model for one choice of guidance and sampler, in the time of their samples.

Every class is a batch of its own: two samples with the same noise, at w = 0 and at w. So neither a
choice nor the number of classes compiles anything beyond `warm_up`, and `command` draws the same
images with the same program.
"""

import dataclasses
import shlex
from collections.abc import Iterator, Sequence

import numpy as np

from cfg_jax.core.plans import SOLVERS
from cfg_jax.core.telemetry import Telemetry
from cfg_jax.io import images
from cfg_jax.io.images import Picture
from cfg_jax.sampling.model import Model, shown_calls
from cfg_jax.sampling.settings import SamplingSettings
from cfg_jax.sampling.strips import Strip
from cfg_jax.study import figures

BATCH = 2
"""Samples of one class, at w = 0 and at w."""

MOST_FRAMES = 8

MEANINGS = {
    "gap_ratio": "how much the class changes eps_hat; 0 where guidance has no effect.",
    "cosine": "1 where both branches point the same way.",
    "parallel": "above 0 where guidance enlarges the estimate, near 0 where it turns it.",
    "saturation": "pixels of the guided estimate outside the range of images, before clipping.",
    "std_ratio": "contrast that guidance adds; 1 for none.",
    "log_prob": "evidence for the class since the first call, in nats. It is defined along "
    "ancestral steps, so other solvers have no plot of it.",
}
"""What the measurements of `figures.MEASURED` say about guidance."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Values of all controls of the explorer.

    labels: class numbers, one row each. w: guidance weight, beside 0. interval: (lo, hi) in log-SNR
    in which calls are guided. solver, num_steps: of `SamplingSettings`. seed: random seed.
    """

    labels: tuple[int, ...]
    w: float
    interval: tuple[float, float]
    solver: str
    num_steps: int
    seed: int = 0

    @property
    def settings(self) -> SamplingSettings:
        """The settings of all samples but w.

        The interval is never None: guidance without one is another program of ancestral sampling.
        """
        return SamplingSettings(
            solver=self.solver, num_steps=self.num_steps, interval=self.interval
        )


def check_model(model: Model) -> None:
    """Raises ValueError for a model that does not draw images guided by w alone."""
    if len(model.shape) != 3 or model.low_res_shape is not None:
        raise ValueError(
            f"a run that draws x of shape {model.shape}, low_res of shape {model.low_res_shape}: "
            "the explorer needs a run that draws images from labels alone"
        )
    if not model.guides_itself:
        raise ValueError(
            f"a run with p_uncond={model.config.diffusion.p_uncond}: the explorer moves w, which "
            "needs a run with p_uncond between 0 and 1"
        )


def interval_of_all_calls(model: Model) -> tuple[float, float]:
    """An interval of whole numbers around all calls, so that all are guided."""
    task = model.experiment
    logsnrs = model.filled(SamplingSettings()).logsnrs(task)
    return float(np.floor(min(logsnrs)) - 1), float(np.ceil(max(logsnrs)) + 1)


def default_steps(model: Model) -> list[int]:
    """The number of calls in the config of the run, and half of it if its solver can."""
    own = model.filled(SamplingSettings())
    assert own.solver is not None
    count = own.num_calls(model.experiment)
    half = count // 2
    return [count, half] if half >= 2 and _fits(model, own.solver, half, True) else [count]


def solvers(model: Model, num_steps: Sequence[int]) -> list[str]:
    """Solvers that fit the run at every number of calls, the run's own first.

    A step rule other than the run's own and "ancestral" is left out, as each is another program.
    Raises ValueError if none fits.
    """
    own = model.filled(SamplingSettings()).solver
    found = [
        name
        for name in dict.fromkeys([own, *SOLVERS])
        if all(_fits(model, name, count, name in (own, "ancestral")) for count in num_steps)
    ]
    if not found:
        raise ValueError(f"num_steps={list(num_steps)}: no solver fits this run: give others")
    return found


def left_out(model: Model, found: Sequence[str], num_steps: Sequence[int]) -> str:
    """The solvers that are not among those found by `solvers`, and why; "" if all are."""
    missing = [name for name in SOLVERS if name not in found]
    fits = {name: all(_fits(model, name, count, True) for count in num_steps) for name in missing}
    reasons = {
        False: "not with these T and the grid of the run",
        True: "a program of its own: use cfg-jax sample",
    }
    names = {fit: ", ".join(name for name in missing if fits[name] is fit) for fit in reasons}
    parts = [f"{names[fit]} ({why})" for fit, why in reasons.items() if names[fit]]
    return f"Left out: {'; '.join(parts)}." if parts else ""


def _fits(model: Model, solver: str, num_steps: int, may_be_rule: bool) -> bool:
    settings = SamplingSettings(solver=solver, num_steps=num_steps)
    try:
        filled = model.check(settings)
        return may_be_rule or not filled.follows_rule
    except ValueError:
        return False


def warm_up(model: Model, solvers: Sequence[str], num_steps: Sequence[int]) -> Iterator[str]:
    """Compiles what any `Choice` of these needs; yields what is next, "1 of 4: T = 16, ddim"."""
    interval, kinds = interval_of_all_calls(model), {}
    for count in num_steps:
        for name in solvers:
            filled = model.filled(SamplingSettings(solver=name, num_steps=count))
            kinds.setdefault((count, name if filled.follows_rule else ""), name)
    for i, ((count, _), name) in enumerate(kinds.items(), 1):
        yield f"{i} of {len(kinds)}: T = {count}, {name}"
        choice = Choice((0,), 1.0, interval, name, count)
        samples(model, choice)
        trajectory(model, choice)
        telemetry(model, choice)


def strip(model: Model, choice: Choice) -> Strip:
    """The samples of a choice; ValueError without a class."""
    if not choice.labels:
        raise ValueError("no class is chosen: choose one or more")
    return Strip(
        model,
        choice.labels,
        [0.0, choice.w],
        settings=choice.settings,
        seed=choice.seed,
        batch_size=BATCH,
    )


def samples(model: Model, choice: Choice) -> Picture:
    """Samples of every class at w = 0 and at w, with the same noise.

    Raises ValueError as `Strip.check`, and without a class.
    """
    drawn = strip(model, choice)
    # Progress would be a line in the terminal for every choice.
    return drawn.picture(drawn.draw(progress=False))


def trajectory(model: Model, choice: Choice) -> Picture:
    """x_hat of every class at w after evenly spaced calls; ValueError as `samples`."""
    drawn = strip(model, choice)
    total = model.check(choice.settings).num_calls(model.experiment)
    count = min(MOST_FRAMES, total)
    frames = [
        model.trajectory(keys, calls=count, labels=labels, **_given(choice))[:, -1]
        for keys, labels in _rows(drawn)
    ]
    captions = [f"call {i + 1}" for i in shown_calls(total, count)]
    return images.captioned_grid(np.stack(frames), drawn.names, captions)


def telemetry(model: Model, choice: Choice) -> Picture:
    """Measurements of guidance at w in every call, a line per class; ValueError as `samples`."""
    drawn = strip(model, choice)
    found = {}
    for name, (keys, labels) in zip(_different(drawn), _rows(drawn), strict=True):
        settings = choice.settings.replace(w=_weights(choice))
        _, both = model.telemetry(keys, settings, labels=labels)
        found[name] = Telemetry(both.logsnr, *(values[:, -1:] for values in both[1:]))
    return figures.telemetry(found)


def _different(drawn: Strip) -> list[str]:
    """The names of the rows, with the number of the class where classes share a name."""
    names = list(map(str, drawn.names))
    rows = zip(names, drawn.labels, strict=True)
    return [f"{name} ({label})" if names.count(name) > 1 else name for name, label in rows]


def _rows(drawn: Strip) -> Iterator[tuple]:
    """Keys and labels of the two samples of every class."""
    keys, labels = drawn.rows()
    for row in range(len(labels)):
        both = np.array([row] * BATCH)
        yield keys[both], labels[both]


def _weights(choice: Choice) -> np.ndarray:
    return np.array([0.0, choice.w], np.float32)


def _given(choice: Choice) -> dict:
    """The settings of a choice as keywords of `Model.sample`."""
    names = ("solver", "num_steps", "interval")
    return {name: getattr(choice, name) for name in names} | {"w": _weights(choice)}


def command(
    choice: Choice, label_names: Sequence[str], workdir: str, checkpoint: int | None = None
) -> str:
    """The command line that draws the samples of a choice, for a shell."""
    labels = ",".join(_label(number, label_names) for number in choice.labels)
    given = {
        "workdir": workdir,
        "checkpoint": checkpoint,
        "w": f"0,{choice.w:.12g}",
        "labels": labels,
        "solver": choice.solver,
        "num_steps": choice.num_steps,
        "interval": "{:.12g},{:.12g}".format(*choice.interval),
        "seed": choice.seed,
        "batch_size": BATCH,
    }
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return shlex.join(["cfg-jax", "sample", *flags])


def _label(number: int, label_names: Sequence[str]) -> str:
    """A class as --labels reads it: a text is the name of a class if there is one, else a number.

    Raises ValueError if both mean another class, or several.
    """
    if str(number) not in label_names:
        return str(number)
    name = label_names[number]
    if "," in name or name != name.strip() or list(label_names).count(name) > 1:
        raise ValueError(f"class {number} has a name that --labels cannot have: choose another")
    return name

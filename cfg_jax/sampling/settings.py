"""Settings of a request for samples: guidance, grid and solver.

    SamplingSettings(w=2.0, num_steps=64).filled(config.sampling, label_names).plan(task)

Flags, keywords and configs become one value, which file names, results and manifests record. A
program is compiled for its static part; its traced part is data.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cfg_jax.config.build import STEPS, Experiment
from cfg_jax.core import grids, plans
from cfg_jax.core.arguments import text_of, whole
from cfg_jax.core.flow import FlowSchedule
from cfg_jax.core.guidance import weight_per_step
from cfg_jax.core.plans import Plan
from cfg_jax.core.types import ArrayLike
from cfg_jax.core.weighting import Weights, schedule_of, weights
from cfg_jax.sampling import against as against_lib

CLASSIFIER_FORMS = ("eps", "adm")

_DEFAULTED = (
    *("solver", "grid", "eta", "churn", "schedule", "interval", "rule", "against"),
    *("logvar_interp", "clip_x", "threshold", "dtype"),
)
# Karras et al. 2022, table 5: ImageNet-64, all but S_churn = 40.
_CHURN = plans.Churn(0.0, 0.05, 50.0, 1.003)


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """Guidance, grid and solver of one request; None stands for the model's default.

    w: guidance weight: scalar, [B] per sample, [T] or [T, 1] per step, or [T, B]. If T = B, a
      vector is per sample. 0 is the conditional model, -1 the unconditional one.
    num_steps: T, the number of network calls, at least 1 for the solvers "ancestral" and "ddim", 2
      or 3 for others; a guided call has 2B examples, another B.
    solver: a key of `plans.SOLVERS`: "ancestral" (the paper's), "ddim", "dpmpp_2m", "unipc_2", ...;
      or a step rule (key, z_t, x_hat, logsnr_t, logsnr_s) -> z_s; or a `Plan`, which has its own
      grid and calls. A program is compiled for each step rule.
    grid: log-SNRs of the calls, a key of `grids.GRIDS`: "schedule" (the paper's), "uniform",
      "mixed" or "karras".
    eta: noise of "ddim", "dpmpp_2m" and "dpmpp_3m", see `plan`; 0 for none.
    churn: S_churn of "heun" and "ddim" (Karras et al. 2022, algorithm 2), with the other values
      of their ImageNet-64 model; 0 for none.
    schedule: change of w over the calls, see `weights`: "constant", "linear", "cosine", "pcs" or
      "cfgpp"; "linear:least=0.5" keeps the weight above a limit.
    interval: (lo, hi) in log-SNR, outside of which w is 0 and a call costs B; () for none. Like
      schedule it concerns w only, not classifier_w.
    rule: how branches are combined, as text for `rule_of`: "cfg", "rescale:phi=0.7", ...
    against: labels that guidance points away from, see `against`: "null" (no label), "random"
      (a random class in every call, for networks without a null label), a class by name or
      number, or labels with weights that sum to 1: "null:2,7:-1" guides towards class 7 too.
    logvar_interp: the paper's v in [0, 1] for ancestral steps; unused if the variance is learned.
    clip_x: whether x_hat is clipped to [-1, 1] after guidance.
    threshold: quantile of |x_hat| for `dynamic_threshold` in place of clipping, such as 0.995; 0
      for none.
    dtype: type inside the network and the weaker one, "float32" or "bfloat16"; "" for the type that
      each was trained with. Parameters, the sampler and a classifier keep theirs.
    respacing: timesteps of a discrete schedule, as ADM's timestep_respacing; replaces num_steps.
      "ddim25" takes 25 timesteps at an integer stride, "90,60,60,20,20" that many evenly spaced
      timesteps from each of 5 equal sections, the cleanest first.
    classifier_w: weight of a noisy classifier, scalar or [B]. Weight w on a conditional model
      corresponds to w + 1 on the unconditional one.
    classifier_form: "eps" shifts eps_hat (Ho & Salimans 2022, section 3.1). "adm" (Dhariwal &
      Nichol 2021) shifts the mean of ancestral steps (algorithm 1), or the score after clipping in
      DDIM steps (algorithm 2).
    noise_temperature: factor on the noise of ancestral steps, 0 or more.
    score_temperature: divisor of the guided eps_hat, above 0 (Dhariwal & Nichol 2021, appendix G).

    Examples:
      >>> cfg_jax.SamplingSettings(w=2.0, num_steps=16).replace(solver="ddim").solver
      'ddim'
    """

    w: ArrayLike = 0.0
    num_steps: int | None = None
    solver: str | Plan | Callable[..., Any] | None = None
    grid: str | None = None
    eta: float | None = None
    churn: float | None = None
    schedule: str | None = None
    interval: tuple[float, ...] | None = None
    rule: str | None = None
    against: str | int | None = None
    logvar_interp: float | None = None
    clip_x: bool | None = None
    threshold: float | None = None
    dtype: str | None = None
    respacing: str | None = None
    classifier_w: ArrayLike = 0.0
    classifier_form: str = "eps"
    noise_temperature: float = 1.0
    score_temperature: float = 1.0

    def replace(self, **changes: Any) -> "SamplingSettings":
        """Returns the settings with some fields changed."""
        return dataclasses.replace(self, **changes)

    def filled(
        self, defaults: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> "SamplingSettings":
        """Replaces None by `defaults`, a config.sampling, and class names in `against` by numbers.

        Names stay if `names`, the names of all classes, is None. Raises ValueError if num_steps is
        not an integer of at least 1, if respacing is given with a num_steps other than the default,
        for a setting that does not count beside a solver of one's own, or for an unknown name.
        """
        self._check_own_solver()
        num_steps, respacing = self.num_steps, self.respacing
        if isinstance(self.solver, Plan):
            num_steps, respacing = self.solver.num_calls, ""
        if not isinstance(respacing, str | None):
            raise ValueError(
                f"respacing={text_of(respacing)}: need a text such as '250' or 'ddim25', or None"
            )
        if num_steps is None and respacing is None:
            num_steps, respacing = defaults["num_steps"], defaults["respacing"]
        elif respacing and num_steps not in (None, defaults["num_steps"]):
            raise ValueError(f"num_steps={num_steps} and respacing={respacing!r}: give one of them")
        num_steps = defaults["num_steps"] if num_steps is None else num_steps
        missing = {name: defaults[name] for name in _DEFAULTED if getattr(self, name) is None}
        if self.has_own_solver or (
            isinstance(self.solver, str) and self.solver != defaults["solver"]
        ):
            # The noise in the config is that of its own solver.
            missing |= {name: 0.0 for name in ("eta", "churn") if getattr(self, name) is None}
        if names is not None:
            against = missing.get("against", self.against)
            missing["against"] = against_lib.numbered(against, names)
        return self.replace(
            num_steps=None if respacing else whole("num_steps", num_steps, 1),
            respacing=respacing or "",
            **missing,
        )

    @property
    def has_own_solver(self) -> bool:
        """Whether the solver is a step rule or a plan of one's own, and not a name."""
        return isinstance(self.solver, Plan) or callable(self.solver)

    def _check_own_solver(self) -> None:
        """Raises ValueError for a setting beside a solver of one's own that does not count."""
        if not self.has_own_solver:
            return
        names = ("num_steps", "respacing", "grid") if isinstance(self.solver, Plan) else ()
        for name in (*names, "eta", "churn"):
            if getattr(self, name) is not None:
                kind = "plan" if names else "step rule"
                raise ValueError(
                    f"{name}={text_of(getattr(self, name))} with a {kind} as solver, which has its "
                    "own: omit it"
                )

    @property
    def follows_rule(self) -> bool:
        """Whether filled settings sample by a step rule on a grid, and not by a `Plan`."""
        if self.has_own_solver:
            return callable(self.solver)
        return self.solver in STEPS and not self.eta and not self.churn

    @property
    def is_plain(self) -> bool:
        """Whether filled settings guide by `cfg` from no label, with w in every call."""
        by_w = self.schedule == "constant" and not self.interval
        return by_w and self.rule == "cfg" and self.against == against_lib.NULL

    def logsnrs(self, task: Experiment) -> tuple[float, ...]:
        """The grid points of filled settings: the T log-SNRs of a step rule.

        A solver of several calls per step has fewer points. Raises ValueError if the schedule lacks
        the grid, or if the solver needs more calls.
        """
        assert self.grid is not None and self.solver is not None  # see `filled`
        if isinstance(self.solver, Plan):
            return tuple(np.asarray(self.solver.logsnr).tolist())
        if self.respacing:
            if self.grid != "schedule":
                raise ValueError(
                    f"grid={self.grid!r} with respacing={self.respacing!r}: give one of them"
                )
            return tuple(task.schedule.respaced(self.respacing).tolist())
        assert self.num_steps is not None
        count = self.num_steps
        if not self.follows_rule:
            assert isinstance(self.solver, str)
            count = plans.grid_points(self.solver, count, name="num_steps")
        if isinstance(task.schedule, FlowSchedule) and self.grid == "schedule":
            self._check_from_noise(task.prediction)
        points = grids.grid(self.grid, task.schedule, max(count, 2))[:count]
        return tuple(np.asarray(points).tolist())

    def _check_from_noise(self, prediction: str) -> None:
        """Raises ValueError for what a grid that begins with noise alone cannot have.

        Its first x_hat is what the network says; sigma / alpha times any change of eps_hat is
        beyond the range of float32 there.
        """
        unfit = {
            f"a network that predicts {prediction}": prediction != "x",
            f"classifier_w={self.classifier_w}": np.any(np.asarray(self.classifier_w) != 0),
            f"score_temperature={self.score_temperature}": self.score_temperature != 1,
        }
        for name in (name for name, is_unfit in unfit.items() if is_unfit):
            raise ValueError(
                f"grid='schedule' with {name}: this grid of a flow schedule begins with noise "
                "alone, and needs x_hat from the network; use grid='uniform'"
            )

    def plan(self, task: Experiment) -> Plan | None:
        """The plan of filled settings; None for a step rule. Raises ValueError as `plans.plan`."""
        if self.follows_rule:
            return None
        if isinstance(self.solver, Plan):
            return _with_noise(self.solver, float(self.noise_temperature))
        assert isinstance(self.solver, str)
        noise = self.eta or 0.0, self.churn or 0.0, float(self.noise_temperature)
        num_calls = None if self.respacing else self.num_steps
        scale = task.noise_scale if self.solver == "heun_flow" else 1.0
        return _plan(self.logsnrs(task), self.solver, *noise, num_calls, scale)

    def num_calls(self, task: Experiment) -> int:
        """Number of network calls of filled settings."""
        plan = self.plan(task)
        return len(self.logsnrs(task)) if plan is None else plan.num_calls

    def weights(self, task: Experiment, batch_size: int) -> Weights:
        """The weights of all calls [T, B] of filled settings; ValueError as `weighting.weights`."""
        w = weight_per_step(self.w, self.num_calls(task), batch_size)
        assert self.schedule is not None
        schedule, least = schedule_of(self.schedule)
        inside = self.interval or None
        return weights(self.calls(task), w, schedule=schedule, interval=inside, least=least)

    def calls(self, task: Experiment) -> Plan | np.ndarray:
        """The calls of filled settings for `weights`: a plan, or the grid of a step rule."""
        plan = self.plan(task)
        return np.asarray(self.logsnrs(task)) if plan is None else plan

    @property
    def uses_null(self) -> bool:
        """Whether filled settings guide by the network without a label."""
        return against_lib.uses_null(str(self.against or ""))

    def has_branch(self, task: Experiment, weaker: bool = False) -> bool:
        """Whether filled settings have a second branch to guide by, such as no label."""
        return task.label_input == "with_null" or weaker or not self.uses_null

    def traced(self) -> dict[str, Any]:
        """Traced scalars of the program, shared by all samples."""
        names = ("logvar_interp", "noise_temperature", "score_temperature")
        return {name: np.float32(getattr(self, name)) for name in names}

    def to_json(self, task: Experiment) -> dict[str, Any]:
        """Filled settings of one weight as JSON values; num_steps is the T of any grid.

        Integers other than num_steps become floats, so 1 and 1.0 have the same digest. Raises
        ValueError for a weight per sample or per step, and for a solver of one's own.
        """
        if self.has_own_solver:
            raise ValueError("a solver of one's own has no name to record: give one of SOLVERS")
        for name in ("w", "classifier_w"):
            if np.ndim(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: give one weight for all samples")
        interval = list(map(float, self.interval or ()))
        values = dataclasses.asdict(self.replace(interval=None))
        values |= {"num_steps": self.num_calls(task)}
        values = {name: np.asarray(value).item() for name, value in values.items()}
        values |= {"interval": interval}
        kept = ("num_steps", "clip_x")
        return {
            name: float(value) if isinstance(value, int) and name not in kept else value
            for name, value in values.items()
        }


@functools.lru_cache(maxsize=16)
def _plan(
    logsnrs: tuple[float, ...],
    solver: str,
    eta: float,
    churn: float,
    noise_temperature: float,
    num_calls: int | None,
    noise_scale: float,
) -> Plan:
    """The plan of `SamplingSettings.plan`; a request reads it several times."""
    added = _CHURN._replace(amount=churn) if churn else None
    made = plans.plan(
        logsnrs, solver, eta=eta, churn=added, num_calls=num_calls, noise_scale=noise_scale
    )
    made = _with_noise(made, noise_temperature)
    for array in made:  # shared by all callers
        assert isinstance(array, np.ndarray)
        array.flags.writeable = False
    return made


def _with_noise(plan: Plan, noise_temperature: float) -> Plan:
    """The plan with a factor on its noise."""
    matrix = np.array(plan.matrix)
    matrix[:, :, -1] *= noise_temperature
    return plan._replace(matrix=matrix)

"""Trained models and classifiers, loaded from the folders of their runs."""

import difflib
from pathlib import Path
from typing import TypeVar

from cfg_jax.config.validate import check_values, from_json
from cfg_jax.core.arguments import whole
from cfg_jax.io.files import folder
from cfg_jax.runtime import processes
from cfg_jax.sampling.model import Model
from cfg_jax.sampling.noisy_classifier import NoisyClassifier
from cfg_jax.sampling.pretrained import NAMES
from cfg_jax.sampling.trained import Trained
from cfg_jax.storage import manifest

_T = TypeVar("_T", bound=Trained)


def load(workdir: str | Path, step: int | None = None) -> Model | NoisyClassifier:
    """Loads the model or classifier trained in `workdir` onto the available devices.

    Every process of a program must call it. Raises ValueError if the checkpoint is missing or not
    written by cfg_jax, or if processes read different steps, which may happen during training.

    Args:
      workdir: --workdir of the training run, a folder or gs://bucket/folder.
      step: training step of the checkpoint; None for the newest readable one.

    Examples:
      >>> import tempfile
      >>> network = cfg_jax.MLP(out_channels=2, num_classes=3, channels=8, num_blocks=1)
      >>> inputs = jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
      >>> params = network.init(jax.random.key(0), *inputs)["params"]
      >>> folder = tempfile.mkdtemp()
      >>> cfg_jax.Model.from_params(network, params, shape=(2,), step=30).save(folder)
      >>> model = cfg_jax.load(folder)
      >>> model.step, model.shape, model.label_names
      (30, (2,), ('0', '1', '2'))
    """
    from cfg_jax.storage import checkpoint

    step = None if step is None else whole("step", step)
    place = folder(workdir)
    _check_run(place)
    loaded = checkpoint.load_ema(place / manifest.FOLDER, step)
    first, *others = processes.of_each(loaded.step)
    for process, other in enumerate(others, start=1):
        if other != first:
            raise ValueError(
                f"{workdir}: process {process} reads step {other}, process 0 step {first}: run "
                "again, or give the step"
            )
    config = from_json(loaded.config)
    try:
        check_values(config)
    except ValueError as error:
        raise ValueError(
            f"{workdir}, checkpoint {loaded.step}: {error}; or it was written by a version of "
            "cfg_jax newer than this one"
        ) from error
    kind = NoisyClassifier if config.network == "classifier" else Model
    described = loaded.meta["data"]
    form = {name: described.get(name) for name in ("shape", "label_names", "class_counts")}
    return kind(config, loaded.ema, step=loaded.step, run=str(workdir), **form)


def _check_run(workdir: Path) -> None:
    """Raises ValueError, with the runs nearby, for a folder without checkpoints."""
    if (workdir / manifest.FOLDER).exists():
        return
    above = [parent for parent in (workdir.parent, workdir.parent.parent) if _is_run(parent)]
    below, beside = _runs_in(workdir), _runs_in(workdir.parent)
    names = difflib.get_close_matches(workdir.name, [run.name for run in beside], n=1)
    near = above or below or [run for run in beside if run.name in names]
    hint = (
        f"did you mean {' or '.join(map(str, near[:3]))}?" if near else "give the folder of a run"
    )
    if not workdir.exists():
        place = "" if workdir.is_absolute() else f" in {Path.cwd()}"
        packaged = workdir.name in NAMES
        other = f"; cfg_jax.pretrained({workdir.name!r}) needs none" if packaged else ""
        raise ValueError(
            f"{workdir} does not exist{place}: {hint}, as `cfg-jax train` writes it{other}"
        )
    raise ValueError(
        f"{workdir} has no folder {manifest.FOLDER}, as `cfg-jax train --workdir=...` writes it: "
        f"{hint}"
    )


def _is_run(place: Path) -> bool:
    return (place / manifest.FOLDER).is_dir()


def _runs_in(place: Path) -> list[Path]:
    """The runs in a folder; none if it cannot be listed."""
    try:
        return sorted(filter(_is_run, place.iterdir()))
    except OSError:
        return []


def load_model(workdir: str | Path, step: int | None = None) -> Model:
    """`load` for a model that draws samples; raises ValueError if workdir holds a classifier."""
    return _load_kind(workdir, step, Model, "a classifier: give the workdir of a diffusion model")


def load_classifier(workdir: str | Path, step: int | None = None) -> NoisyClassifier:
    """`load` for a noisy classifier; raises ValueError if workdir holds a diffusion model."""
    return _load_kind(workdir, step, NoisyClassifier, "no classifier: give the workdir of one")


def _load_kind(workdir: str | Path, step: int | None, kind: type[_T], otherwise: str) -> _T:
    loaded = load(workdir, step)
    if not isinstance(loaded, kind):
        raise ValueError(f"{workdir} holds {otherwise}")
    return loaded

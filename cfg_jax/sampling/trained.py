"""A trained network that draws samples or guides: parameters, config and data description.

model = cfg_jax.Model.from_params(network, params, shape=(8, 8, 1), prediction="v")
model.save("runs/own")
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.config import build, derived
from cfg_jax.config.validate import to_json
from cfg_jax.core.arguments import shape_of, text_of, whole
from cfg_jax.core.schedules import Schedule, cosine_schedule
from cfg_jax.runtime import devices
from cfg_jax.sampling import keywords, run_folder
from cfg_jax.sampling.labels import numbered
from cfg_jax.storage import manifest


class Trained:
    """EMA parameters and the network they belong to.

    Attributes:
      config: training config.
      params: exponential moving average of the parameters. They are placed on all devices at first
        use, because placing compiles and a request may still be rejected.
      step: training step of the checkpoint.
      shape: shape of one example, (H, W, C) or (D,).
      label_names: one name per class; labels index them, or are given by name.
      class_counts: number of training examples of each class; None if unknown.
      run: folder that it was loaded from; "" if it was not.
      experiment: network without parameters, hashable.

    Examples:
      >>> network = cfg_jax.MLP(out_channels=2, num_classes=3, channels=8, num_blocks=1)
      >>> inputs = jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
      >>> params = network.init(jax.random.key(0), *inputs)["params"]
      >>> model = cfg_jax.Model.from_params(network, params, shape=(2,), label_names="abc")
      >>> model.numbered(["c", "a"]), model.config.network
      ([2, 0], 'mlp')
    """

    _task: ClassVar[type[build.Task]] = build.Task

    def __init__(
        self,
        config: ConfigDict,
        params: Any,
        *,
        step: int,
        shape: tuple[int, ...],
        label_names: tuple[str, ...],
        class_counts: tuple[int, ...] | None = None,
        run: str = "",
    ):
        self.config = config
        self._loaded = params
        self.step = step
        self.shape = tuple(shape)
        self.label_names = tuple(label_names)
        self.class_counts = None if class_counts is None else tuple(class_counts)
        self.run = run
        self.experiment = build.assemble(config, self.shape, len(self.label_names))

    @classmethod
    def from_params(
        cls,
        network: Any,
        params: Any,
        *,
        shape: Sequence[int],
        label_names: Sequence[str] | None = None,
        schedule: Schedule | None = None,
        sampling: Mapping[str, Any] | None = None,
        step: int = 0,
        **diffusion: Any,
    ) -> Self:
        """A network of this package with parameters that were trained elsewhere.

        Args:
          network: `UNet`, `Transformer` or `MLP`; `Classifier` for a `NoisyClassifier`.
          params: nested dict like network.init(...)["params"]; averages, if training kept them.
          shape: shape of one example, (H, W, C) or (D,).
          label_names: one name per class; None for "0", "1", ...
          schedule: schedule that it was trained with; None for `cosine_schedule()`.
          sampling: defaults of `Model.sample`, fields of config.sampling, as {"num_steps": 64}.
            Points are not clipped by default, and have grid="uniform": without clipping, the first
            step multiplies an error of eps_hat by exp(h / 2), h its gap in log-SNR.
          step: training step.
          **diffusion: fields of config.diffusion: prediction ("eps"), p_uncond (0.1), ...

        Raises ValueError if the network is another one, if its outputs do not fit the prediction,
        if a field is unknown or out of range, or if params are not those of the network.
        """
        shape = shape_of(shape, "the shape of one example, (H, W, C) or (D,)", ranks=(1, 3))
        names = _names(label_names, getattr(network, "num_classes", 0))
        config = derived.config_of(
            network,
            shape,
            len(names),
            cosine_schedule() if schedule is None else schedule,
            sampling=sampling or {},
            **diffusion,
        )
        if not issubclass(build.kind(config), cls._task):
            raise ValueError(
                f"network of type {type(network).__name__}: a Classifier is for NoisyClassifier, "
                "the other networks are for Model"
            )
        form: dict[str, Any] = {"shape": shape, "label_names": names}
        made = cls(config, params, step=whole("step", step), **form)
        _check_params(params, jax.eval_shape(made.experiment.init, jax.random.key(0)))
        return made

    def save(self, workdir: str | os.PathLike[str]) -> None:
        """Writes the folder of a run, which `cfg_jax.load` and `cfg-jax sample` read.

        Raises ValueError if workdir holds checkpoints or is not writable, and OSError if writing
        fails; neither leaves anything on disk.
        """
        data = {
            "shape": self.shape,
            "label_names": self.label_names,
            "class_counts": self.class_counts,
            "fingerprint": {"sha256": self.sha256},
        }
        config = to_json(self.config)
        run_folder.write(workdir, self._held, config=config, meta={"data": data}, step=self.step)

    @property
    def num_classes(self) -> int:
        """K, the number of classes; labels are 0..K - 1."""
        return len(self.label_names)

    if not TYPE_CHECKING:  # a type checker would take every attribute for one of any type

        def __getattr__(self, name: str) -> Any:
            """Raises AttributeError, with the attribute to use for one of another library."""
            if said := keywords.attribute(type(self).__name__, name, keywords.ATTRIBUTES):
                raise AttributeError(said)
            return object.__getattribute__(self, name)  # the error again, also that of a property

    def numbered(self, labels: Any) -> Any:
        """`labels` with class names replaced by numbers; ValueError for an unknown name."""
        return numbered(labels, self.label_names)

    @functools.cached_property
    def params(self) -> Any:
        """EMA parameters on all devices."""
        with jax.ensure_compile_time_eval():  # the first use may be inside a traced function
            placed = devices.replicate(self._loaded)
        self.__dict__.pop("_loaded", None)  # not before, as placing them may fail
        return placed

    @property
    def sha256(self) -> str:
        """SHA-256 of the parameters, in hexadecimal."""
        return manifest.sha256(self._held)

    @property
    def _held(self) -> Any:
        """EMA parameters, wherever they are."""
        return self.__dict__["_loaded" if "_loaded" in self.__dict__ else "params"]

    def __repr__(self) -> str:
        network = type(self.experiment.network).__name__
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self._held))
        run = f"{self.run!r}, " if self.run else ""
        return (
            f"{type(self).__name__}({run}step={self.step}, network={network}, params={count}, "
            f"shape={self.shape}, num_classes={self.num_classes})"
        )


def _names(given: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """The names of all classes, by default their numbers; ValueError unless they are texts."""
    if given is None:
        return tuple(map(str, range(num_classes)))
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"label_names={text_of(given)}: need texts, one per class")
    return tuple(given)


def _check_params(params: Any, needed: Any) -> None:
    """Raises ValueError that names the first parameter of another shape, missing or unknown."""
    there, here = (_shapes(tree) for tree in (params, needed))
    for path in there | here:
        given, wanted = there.get(path), here.get(path)
        if given != wanted:
            hint = "give variables['params']" if path.startswith("params/") else "check the network"
            if given is None:
                raise ValueError(f"params/{path} is missing: the network needs {wanted}; {hint}")
            if wanted is None:
                raise ValueError(f"params/{path} is unknown to this network: {hint}")
            raise ValueError(f"params/{path} has {given}: the network needs {wanted}; {hint}")


def _shapes(tree: Any) -> dict[str, str]:
    """{path: shape} of the leaves of nested dicts."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(str(getattr(key, "key", key)) for key in path): f"shape {np.shape(leaf)}"
        for path, leaf in leaves
    }

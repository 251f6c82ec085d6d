"""Cache of compile results.

Compiling takes minutes and is deterministic, so each compile result is stored as JSON:

    <name>_<topology>_b<examples per device>_<program>_<digest>.json

The digest covers all inputs of the compiler: the fingerprint of the lowered program, the topology,
the --code flag (whether to generate code), the versions of jax, jaxlib and libtpu, and the
compiler's flags. Editing cfg_jax invalidates a result only if the lowered program changes.
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from cfg_jax.config.validate import to_json
from cfg_jax.io.files import save_text
from cfg_jax.io.reading import read_json
from cfg_jax.io.text import one_line
from cfg_jax.preflight.topologies import Topology, topology
from cfg_jax.preflight.verdict import Compiled
from cfg_jax.storage import manifest

_COMPILERS = ("jax", "jaxlib", "libtpu")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# Flags that the TPU compiler ignores, or that only set output paths.
_IGNORED = ("--xla_cpu_", "--xla_gpu_", "--xla_dump_", "--xla_force_host_platform_")


@dataclasses.dataclass(frozen=True)
class Result:
    """Compile result of one program.

    name, topology: names of the config and of the pod slice.
    program: "train" or "sample".
    num_devices, per_device: number of devices, and of examples or images per device.
    config, versions: config as JSON values, and versions of the packages used to compile.
    digest: SHA-256 of all inputs of the compiler.
    """

    name: str
    topology: str
    program: str
    num_devices: int
    per_device: int
    config: dict[str, Any]
    versions: dict[str, str]
    digest: str
    compiled: Compiled

    @property
    def where(self) -> Topology:
        """The pod slice."""
        return topology(self.topology)

    @property
    def fits(self) -> bool:
        """Whether the program fits the memory of the devices."""
        return self.compiled.fits(self.where.usable_bytes)

    @property
    def file_name(self) -> str:
        """Name of the file that `write` creates."""
        where = self.topology.replace(":", "-")
        # A name may hold many overrides, some with paths.
        name = re.sub(r"[^\w.,=+-]+", "-", self.name)[:120]
        parts = (name, where, f"b{self.per_device}", self.program, self.digest[:8])
        return "_".join(parts) + ".json"


def key(
    name: str, config: Any, where: Topology, program: str, fingerprint: str, *, code: bool
) -> dict[str, Any]:
    """All fields of a `Result` except `compiled`."""
    packages = {package: manifest.version(package) for package in _COMPILERS}
    depends_on = {
        "lowered": fingerprint,
        "topology": where.name,
        "program": program,
        "code": code,
        "versions": packages,
        "flags": _flags(),
    }
    return {
        "name": name,
        "topology": where.name,
        "program": program,
        "num_devices": where.num_devices,
        "per_device": config.train.batch_size // where.num_devices,
        "config": to_json(config),
        "versions": manifest.versions() | packages,
        "digest": manifest.sha256_json(depends_on),
    }


def _flags() -> list[str]:
    """Flags in the environment that affect the TPU compiler."""
    given = [flag for name in _FLAGS for flag in os.environ.get(name, "").split()]
    return [flag for flag in given if not flag.startswith(_IGNORED)]


def find(folder: Path, known: dict[str, Any]) -> tuple[Path, Result] | None:
    """(file, result) in `folder` for a `key`, under any name; None if there is none."""
    for path in sorted(folder.glob(f"*_{known['digest'][:8]}.json")):
        try:
            found = read(path)
        except ValueError:
            continue  # incomplete file: compile again
        if found.digest == known["digest"]:
            return path, dataclasses.replace(found, name=known["name"])
    return None


def read(path: Path) -> Result:
    """Loads a result; raises ValueError if `write` did not write the file."""
    try:
        values = read_json(path)
        del values["follows"]
        return Result(**{**values, "compiled": Compiled.from_json(values["compiled"])})
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a preflight result ({one_line(error)}): give a file written by cfg-jax "
            "preflight"
        ) from error


def write(folder: Path, result: Result) -> Path:
    """Writes a result for `find`, with derived values for human readers under "follows"."""
    compiled, where = result.compiled, result.where
    follows = {
        "fits": result.fits,
        "needed_bytes": compiled.total_bytes,
        "usable_bytes": where.usable_bytes,
        "estimated_share_of_peak": compiled.fraction_of_peak(where.flops_per_cycle),
        "checks": compiled.checks(result.num_devices),
    }
    path = folder / result.file_name
    values = dataclasses.asdict(result) | {"follows": follows}
    save_text(path, json.dumps(values, indent=1) + "\n")
    return path

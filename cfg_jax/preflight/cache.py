"""Was this program compiled before, and what was found?

Compiling takes minutes and is deterministic, so findings are kept as JSON, a file per program:

    <name>_<topology>_b<examples on a device>_<program>_<digest>.json

The digest covers all that compiling depends on: the fingerprint of the lowered program, the
topology, whether code is generated, the versions of jax, jaxlib and libtpu, the compiler's flags.
An edit of this package loses no result unless it changes what is compiled.
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from cfg_jax.config.validate import to_json
from cfg_jax.io.files import save_text
from cfg_jax.preflight.topologies import Topology, topology
from cfg_jax.preflight.verdict import Compiled
from cfg_jax.storage import manifest

_COMPILERS = ("jax", "jaxlib", "libtpu")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# Flags that the TPU compiler ignores, or that say only where to write.
_IGNORED = ("--xla_cpu_", "--xla_gpu_", "--xla_dump_", "--xla_force_host_platform_")


@dataclasses.dataclass(frozen=True)
class Result:
    """The findings about one program.

    name: the config's.
    topology: name of the pod slice.
    program: "train" or "sample".
    num_devices, per_device: devices, and examples or images on each.
    config: as JSON values.
    versions: of the packages that it was compiled with.
    digest: SHA-256 of all that compiling depends on.
    compiled: the findings.
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
        """Whether the program fits the devices of the pod slice."""
        return self.compiled.fits(self.where.usable_bytes)

    @property
    def file_name(self) -> str:
        """Name of the file that `write` makes."""
        where = self.topology.replace(":", "-")
        # Overrides in a name may hold paths, and there may be many.
        name = re.sub(r"[^\w.,=+-]+", "-", self.name)[:120]
        parts = (name, where, f"b{self.per_device}", self.program, self.digest[:8])
        return "_".join(parts) + ".json"


def key(
    name: str, config: Any, where: Topology, program: str, fingerprint: str, *, code: bool
) -> dict[str, Any]:
    """The fields of a `Result` but `compiled`: all that is known of a lowered program."""
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
    """The flags in this environment that the TPU compiler heeds."""
    given = [flag for name in _FLAGS for flag in os.environ.get(name, "").split()]
    return [flag for flag in given if not flag.startswith(_IGNORED)]


def find(folder: Path, known: dict[str, Any]) -> tuple[Path, Result] | None:
    """(file, result) in `folder` of a `key`, perhaps written under another name; None if none."""
    for path in sorted(folder.glob(f"*_{known['digest'][:8]}.json")):
        try:
            found = read(path)
        except ValueError:
            continue  # an incomplete file is compiled again
        if found.digest == known["digest"]:
            return path, dataclasses.replace(found, name=known["name"])
    return None


def read(path: Path) -> Result:
    """The result in a file; raises ValueError for a file that `write` did not write."""
    try:
        values = json.loads(path.read_text("utf-8"))
        del values["follows"]
        return Result(**{**values, "compiled": Compiled.from_json(values["compiled"])})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no result of a preflight: {error}") from error


def write(folder: Path, result: Result) -> Path:
    """Writes a result where `find` finds it, with what follows from it for readers."""
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

"""Was this program compiled before, and where is what was found?

Compiling takes minutes and gives the same every time, so what was found lies in a folder, one JSON
file for each program:

    <name>_<topology>_b<examples on a device>_<program>_<digest>.json

The digest is of all that compiling depends on: the lowered program's text, the topology, whether
code is generated, the versions of jax, jaxlib and libtpu, the compiler's flags. So a change of this
package's source loses no result unless it changes what is compiled, and finding one takes as long
as tracing does.
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from cfg_jax.config.validate import to_json
from cfg_jax.preflight import verdict
from cfg_jax.preflight.compiling import Compiled
from cfg_jax.preflight.topologies import Topology, topology
from cfg_jax.storage import manifest

_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_NOT_OF_TPUS = ("--xla_cpu_", "--xla_gpu_", "--xla_dump_", "--xla_force_host_platform_")
_COMPILERS = ("jax", "jaxlib", "libtpu")


@dataclasses.dataclass(frozen=True)
class Result:
    """What was found of one program.

    name: of the config.
    topology: its name.
    program: "train" or "sample".
    num_devices, per_device: devices, and examples or images on each.
    config: as JSON values.
    versions: of what it was compiled with.
    digest: of all that it depends on, in hexadecimal.
    compiled: what was found.
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
    def file_name(self) -> str:
        """Where `write` puts it."""
        where = self.topology.replace(":", "-")
        # An override may have the path of a data set in it, and there may be many.
        name = re.sub(r"[^\w.,=+-]+", "-", self.name)[:120]
        parts = (name, where, f"b{self.per_device}", self.program, self.digest[:8])
        return "_".join(parts) + ".json"


def question(
    name: str, config: Any, where: Topology, program: str, fingerprint: str, *, code: bool = True
) -> dict[str, Any]:
    """The fields of a `Result` but the last: all that is known before compiling."""
    versions = manifest.versions() | {
        package: manifest.version(package) for package in ("jaxlib", "libtpu")
    }
    depends_on = {
        "lowered": fingerprint,
        "topology": where.name,
        "program": program,
        "code": code,
        "versions": {package: versions[package] for package in _COMPILERS},
        "flags": _flags(),
    }
    return {
        "name": name,
        "topology": where.name,
        "program": program,
        "num_devices": where.num_devices,
        "per_device": config.train.batch_size // where.num_devices,
        "config": to_json(config),
        "versions": versions,
        "digest": manifest.sha256_json(depends_on),
    }


def _flags() -> list[str]:
    """The flags of this environment that the TPU compiler heeds."""
    given = [flag for name in _FLAGS for flag in os.environ.get(name, "").split()]
    return [flag for flag in given if not flag.startswith(_NOT_OF_TPUS)]


def find(folder: Path, asked: dict[str, Any]) -> tuple[Path, Result] | None:
    """Where in `folder` the result of what is asked lies, and it; None where there is none.

    It may have been asked for by another name.
    """
    ending = f"_{asked['digest'][:8]}.json"
    for path in sorted(folder.glob(f"*{ending}")):
        try:
            found = read(path)
        except ValueError:
            continue  # half a file, of a program that was killed: compiled again
        if found.digest == asked["digest"]:
            return path, dataclasses.replace(found, name=asked["name"])
    return None


def read(path: Path) -> Result:
    """The result in a file.

    Raises:
      ValueError: a file that `write` did not write.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        del values["follows"]
        return Result(**{**values, "compiled": Compiled.from_json(values["compiled"])})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no result of a preflight: {error}") from error


def write(folder: Path, result: Result) -> Path:
    """Puts a result where `find` finds it, whole or not at all.

    Raises:
      ValueError: a folder that cannot be written.
    """
    path = folder / result.file_name
    values = dataclasses.asdict(result) | {"follows": _follows(result)}
    half = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
        half.replace(path)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror}): give another folder as --out"
        ) from error
    return path


def _follows(result: Result) -> dict[str, Any]:
    """What a reader of the file wants to know and would have to work out."""
    where, compiled = topology(result.topology), result.compiled
    return {
        "fits": verdict.fits(compiled, where.usable_bytes),
        "needed_bytes": verdict.needed_bytes(compiled),
        "usable_bytes": where.usable_bytes,
        "estimated_share_of_peak": verdict.share_of_peak(compiled, where.flops_per_cycle),
        "checks": verdict.checks(compiled, result.num_devices),
    }


def check_writable(folder: Path) -> None:
    """Raises ValueError, before minutes of compiling, for a folder that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise ValueError(
            f"--out={folder} cannot be written ({error.strerror}): give another folder"
        ) from error

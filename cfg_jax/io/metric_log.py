"""Metrics of a run: the record `metrics.jsonl`, TensorBoard events, and Weights & Biases.

A line of the record is a JSON object with plain names, such as "loss". TensorBoard and Weights &
Biases have the groups of `tags`, pictures and the config, too.
"""

import contextlib
import itertools
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from cfg_jax.io.events import Events
from cfg_jax.io.files import in_bucket, save_text
from cfg_jax.io.reading import parse_json
from cfg_jax.io.wandb_log import Destination, WandbLog


class MetricLog:
    """Writes metrics by step. A disk failure is logged once and does not stop the run.

    Args:
      workdir: existing folder.
      start: step that training starts from. Records of later steps are removed, because training
        repeats those steps. If start is 0, an existing metrics.jsonl is from another run and is
        renamed.
      config: fields of the run's config, by name.
      wandb: project of Weights & Biases to log to as well.
    """

    def __init__(
        self,
        workdir: Path,
        start: int,
        *,
        config: Mapping[str, Any] = types.MappingProxyType({}),
        wandb: Destination | None = None,
    ):
        self._path = workdir / "metrics.jsonl"
        self._folder = workdir / "events"
        self._failed: set[Path] = set()
        self._events: Events | None = None
        self._guarded(self._path, self._take_out_beyond, start)
        self._guarded(self._folder, self._open_events, start, config)
        self._wandb = WandbLog(workdir, wandb, config, start) if wandb else None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends {"step": step, name: value, ...} as a line of JSON, and logs it elsewhere."""
        self._guarded(self._path, self._append, {"step": step, **scalars})
        if self._events:
            self._guarded(self._folder, self._events.scalars, step, scalars)
        if self._wandb:
            self._wandb.scalars(step, scalars)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Logs a PNG file."""
        if self._events:
            events = self._events
            self._guarded(self._folder, lambda: events.picture(step, name, path.read_bytes()))
        if self._wandb:
            self._wandb.picture(step, name, path)

    def close(self, *, failed: bool = False) -> None:
        """Flushes and closes all; Weights & Biases shows a run that `failed` as such."""
        if self._events:
            self._guarded(self._folder, self._events.close)
        if self._wandb:
            self._wandb.close(failed=failed)

    def _append(self, record: Mapping[str, float]) -> None:
        line = (json.dumps(record) + "\n").encode()
        if in_bucket(self._path):
            before = self._path.read_bytes() if self._path.exists() else b""
            self._path.write_bytes(before + line)
            return
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) < len(line):  # disk full; the next record starts a new line
                file.truncate(end)
                raise OSError("no space for a record")

    def _take_out_beyond(self, start: int) -> None:
        if not self._path.exists():
            return
        if start == 0:
            self._path.replace(_unused(self._path))
            return
        records = read_records(self._path.parent)
        kept = [json.dumps(record) + "\n" for record in records if record["step"] <= start]
        save_text(self._path, "".join(kept))

    def _open_events(self, start: int, config: Mapping[str, Any]) -> None:
        self._events = Events(self._folder, start)
        if config:
            self._events.config(start, config)

    def _guarded(self, place: Path, action, *args) -> None:
        """Calls `action`, which writes to `place`; its first failure is logged."""
        try:
            action(*args)
        except Exception as error:  # buckets raise many types
            if place not in self._failed:
                logging.warning(
                    "metrics are not being written to %s (%s): check for a full disk or missing "
                    "permissions; the run goes on without them",
                    *(place, error),
                )
            self._failed.add(place)


def _unused(path: Path) -> Path:
    """Path metrics.1.jsonl, or the next free number."""
    others = (path.with_suffix(f".{number}{path.suffix}") for number in itertools.count(1))
    return next(other for other in others if not other.exists())


def read_records(workdir: Path) -> list[dict[str, float]]:
    """Reads the records {"step": step, name: value, ...}; skips incomplete and damaged lines.

    Raises ValueError if the file is not a plain one.
    """
    path, records = workdir / "metrics.jsonl", []
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no plain file: remove or rename it")
    # A line of text may also end at other characters, such as U+2028.
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            record = parse_json(line.decode("utf-8"))
            if _is_record(record):
                records.append(record)
    return records


def _is_record(value: Any) -> bool:
    """Whether a JSON value has an integer step and numbers."""
    if not isinstance(value, dict) or type(value.get("step")) is not int:
        return False
    return all(type(number) in (int, float) for number in value.values())

"""Metrics of a run: `metrics.jsonl` (the record, a JSON object per line) and TensorBoard events."""

import contextlib
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from cfg_jax.io.files import save_text
from cfg_jax.io.reading import parse_json


class MetricLog:
    """Writes scalars by step. A disk failure is logged once and does not stop the run.

    Args:
      workdir: existing folder.
      start: step that training starts from. Records of later steps are removed, because training
        repeats those steps. If start is 0, an existing metrics.jsonl is from another run and is
        renamed.
    """

    def __init__(self, workdir: Path, start: int):
        self._path = workdir / "metrics.jsonl"
        self._warned = False
        self._events: _Events | None = None
        self._guarded(self._take_out_beyond, start)
        self._guarded(self._open_events, workdir / "events", start)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends {"step": step, name: value, ...} as a line of JSON and a TensorBoard event."""
        self._guarded(self._append, {"step": step, **scalars})
        if self._events:
            self._guarded(self._events.write, step, scalars)

    def close(self) -> None:
        """Flushes and closes the event file."""
        if self._events:
            self._guarded(self._events.close)

    def _append(self, record: Mapping[str, float]) -> None:
        line = (json.dumps(record) + "\n").encode()
        if "://" in str(self._path):  # bucket files cannot be appended to
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

    def _open_events(self, folder: Path, start: int) -> None:
        self._events = _Events(folder, start)

    def _guarded(self, action, *args) -> None:
        try:
            action(*args)
        except Exception as error:  # buckets raise many types
            if not self._warned:
                logging.warning(
                    "metrics are not being written to %s (%s): check for a full disk or missing "
                    "permissions; the run goes on without them",
                    *(self._path.parent, error),
                )
            self._warned = True


class _Events:
    """A TensorBoard file, written in the calling thread.

    SummaryWriter of tensorboardX blocks forever if a full disk ends its writer thread.
    """

    def __init__(self, folder: Path, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        # TensorBoard discards what an earlier session wrote for this step and later.
        self._put(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._put(step=step, summary=Summary(value=values))

    def close(self) -> None:
        self._writer.close()

    def _put(self, **fields) -> None:
        self._writer.write_event(Event(wall_time=time.time(), **fields))
        self._writer.flush()


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

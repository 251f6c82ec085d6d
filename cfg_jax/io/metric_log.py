"""Where do a run's numbers go?

To `metrics.jsonl`, one JSON object per line, which is the record, and to TensorBoard event files
beside it.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path

from absl import logging
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from cfg_jax.io.files import save_text


class MetricLog:
    """Writes scalars by step; a failing disk costs one warning, not the run.

    Args:
      workdir: an existing folder.
      start: the step that training starts from. Records beyond it, left by a run that was cut
        before it could save a checkpoint, are taken out, since those steps are made again. At step
        0 a record that is there belongs to another run, and is kept under another name.
    """

    def __init__(self, workdir: Path, start: int):
        self._path = workdir / "metrics.jsonl"
        self._warned = False
        self._events = None
        self._guarded(self._take_out_beyond, start)
        self._guarded(self._open_events, workdir / "events", start)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line {"step": step, name: value, ...} and one event with the same."""
        self._guarded(self._append, {"step": step, **scalars})
        if self._events:
            self._guarded(self._events.write, step, scalars)

    def close(self) -> None:
        """Writes out what is buffered."""
        if self._events:
            self._guarded(self._events.close)

    def _append(self, record: Mapping[str, float]) -> None:
        line = (json.dumps(record) + "\n").encode()
        if "://" in str(self._path):  # a bucket's files do not grow
            before = self._path.read_bytes() if self._path.exists() else b""
            self._path.write_bytes(before + line)
            return
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) < len(line):  # a full disk; the next record starts a new line
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
        except Exception as error:  # a bucket fails in many types
            if not self._warned:
                logging.warning("metrics are not being written: %s", error)
            self._warned = True


class _Events:
    """A TensorBoard file, written by the thread that calls.

    tensorboardX's own SummaryWriter leaves that to a thread of its own, which a full disk ends, and
    waits for that thread for ever.
    """

    def __init__(self, folder: Path, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        # TensorBoard forgets what an earlier session wrote of this step and later ones.
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
    """metrics.1.jsonl, or the first number after it that is free."""
    others = (path.with_suffix(f".{number}{path.suffix}") for number in itertools.count(1))
    return next(other for other in others if not other.exists())


def read_records(workdir: Path) -> list[dict[str, float]]:
    """The records of a run, {"step": step, name: value, ...}; half a line is none."""
    path, records = workdir / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records

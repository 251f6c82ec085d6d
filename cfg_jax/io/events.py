"""A TensorBoard file of scalars, pictures and text, written in the calling thread.

SummaryWriter of tensorboardX blocks forever if a full disk ends its writer thread.
"""

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import text

from cfg_jax.io.tags import tag


class Events:
    """A new event file in `folder`, for the steps after `start`; its tags are those of `tags`.

    Each method raises what the file system raises.
    """

    def __init__(self, folder: Path, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        # TensorBoard discards what an earlier session wrote for this step and later.
        self._put(start + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers by name."""
        values = [Summary.Value(tag=tag(name), simple_value=v) for name, v in scalars.items()]
        self._put(step, summary=Summary(value=values))

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Writes a PNG as it is."""
        width, height = struct.unpack(">II", png[16:24])  # of the header, which comes first
        image = Summary.Image(width=width, height=height, encoded_image_string=png)
        self._put(step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def config(self, step: int, config: Mapping[str, Any]) -> None:
        """Writes the fields of a config as a table."""
        rows = [f"| {field} | `{value!r}` |" for field, value in config.items()]
        self._put(
            step, summary=text("config", "\n".join(["| field | value |", "|---|---|", *rows]))
        )

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()

    def _put(self, step: int, **fields: Any) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **fields))
        self._writer.flush()

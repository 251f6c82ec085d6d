"""Output of a run: logged metrics and pictures, lines of text, and the progress bar.

Process 0 alone logs and prints; the other processes have a journal that does nothing.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from cfg_jax.config.validate import flatten, to_json
from cfg_jax.io import wandb_log
from cfg_jax.io.metric_log import MetricLog
from cfg_jax.io.progress import Progress
from cfg_jax.runtime import devices, processes


def destination(config: ConfigDict) -> wandb_log.Destination | None:
    """The project of Weights & Biases that a config names, checked; None in other processes.

    Every process must call it. Raises ValueError in all of them if process 0 misses the library or
    its API key.
    """
    if config.log.wandb == "off":
        return None
    to = wandb_log.Destination(config.log.wandb, config.log.wandb_project)
    processes.by_first(lambda: wandb_log.check(to))
    return to if processes.is_first() else None


class Journal:
    """Output of a run in process 0, and no output in the others; from `opened`."""

    def __init__(self, log: MetricLog | None, progress: Progress | None):
        self._log, self._progress = log, progress

    def print(self, text: str) -> None:
        """Prints a line."""
        if self._progress:
            print(text, flush=True)

    def advance(self) -> None:
        """Counts a step."""
        if self._progress:
            self._progress.advance()

    def metrics(self, step: int, scalars: Mapping[str, float]) -> None:
        """Logs metrics by name, with the memory of the devices, and shows loss and speed."""
        if not (self._log and self._progress):
            return
        peak = devices.peak_memory()
        self._log.write(step, {**scalars, **({"memory_peak": peak} if peak else {})})
        text = f"loss {scalars.get('loss', math.nan):.4f}"
        if "images_per_second" in scalars:
            text += f"  {scalars['images_per_second']:.0f} images/s"
        self._progress.report(text)

    def preview(self, step: int, path: Path) -> None:
        """Logs the picture of a preview."""
        if self._log:
            self._log.picture(step, "preview", path)
        self.print(f"preview of step {step}: {path}")


@contextlib.contextmanager
def opened(config: ConfigDict, workdir: Path, start: int) -> Iterator[Journal]:
    """The journal of a run that goes on from `start`, closed at the end of the context."""
    to = destination(config)
    if not processes.is_first():
        yield Journal(None, None)
        return
    fields = dict(flatten(to_json(config)))
    log = MetricLog(workdir, start, config=fields, wandb=to)
    progress = Progress(start, config.train.num_steps, lines=False, first="compiling")
    failed = False
    try:
        with progress:
            yield Journal(log, progress)
    except Exception:  # without SystemExit, which a preempted run raises
        failed = True
        raise
    finally:
        log.close(failed=failed)

"""How does a program start, and how does it end when a person made a mistake?

`run(main)` is absl's app.run in which a mistake costs one line on standard error and exit code 2,
instead of a traceback. `-v=1` brings the traceback back.
"""

import logging as std_logging
import sys
from collections.abc import Callable

from absl import app, flags, logging


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags, calls main, and exits with what it returns, 0 for None.

    A ValueError, a person's mistake, gives one line and code 2; what the world did, an OSError or
    a run that lost its numbers, one line and code 1.
    """

    def guarded(argv: list[str]) -> int:
        if len(argv) > 1:
            return _fail(f"unexpected argument {argv[1]!r}: every option is a --flag=value")
        try:
            return main(argv) or 0
        except ValueError as error:
            return _fail(error)
        except (FloatingPointError, OSError, RuntimeError) as error:
            return _fail(error, code=1)
        except KeyboardInterrupt:
            return _fail("interrupted", code=130)

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax tells of every step it takes
            logging.get_absl_logger().addFilter(_matters)
        return rest
    except flags.Error as error:
        message = f"{error} (--help lists the flags)"
    except (AttributeError, KeyError) as error:
        message = f"{error} (configs/base.py lists the fields)"
    except (OSError, ImportError, SyntaxError, TypeError, ValueError) as error:
        message = f"cannot read the config: {error}"
    sys.exit(_fail(message))


def _matters(record: std_logging.LogRecord) -> bool:
    """No for the warnings of libraries whose errors we turn into our own.

    TFDS warns of folders it is about to make and of image decoders it can do without, orbax of
    files of which a checkpoint is then said to be damaged.
    """
    return not any(name in record.pathname for name in ("tensorflow_datasets", "orbax"))


def _fail(message: object, code: int = 2) -> int:
    if isinstance(message, BaseException) and logging.level_debug():
        raise message
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return code


def numbers(flag: str, text: str) -> list[float]:
    """The numbers of a comma-separated flag.

    Raises:
      ValueError: something in it is no number.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--{flag}={text}: need numbers with commas between them") from error


def guiding_classifier(workdir: str | None, text: str | None, weights: list[float]):
    """What --classifier_workdir and --classifier_w name: (classifier or None, its weights).

    Raises:
      ValueError: one of the two without the other, no classifier there, weights that --w does not
        pair with.
    """
    from cfg_jax import generate, model

    if workdir is None and text is None:
        return None, [0.0]
    if workdir is None or text is None:
        raise ValueError(
            f"--classifier_workdir={workdir or ''} --classifier_w={text or ''}: give both, or "
            "neither"
        )
    by = numbers("classifier_w", text)
    generate.columns(weights, by)
    return model.load_classifier(workdir), by

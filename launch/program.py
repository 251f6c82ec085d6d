"""Start and end of a program: flags, processes of a cluster, compilation cache and exit codes.

`run(main)` is absl's app.run that first connects the processes of a cluster and sets the
compilation cache. A user error prints one line on standard error; -v=1 adds the traceback.
"""

import atexit
import functools
import logging as std_logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from . import fields, help, interrupts, streams
from .values import flag_error, refuse_empty

_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Connect several processes as one program: always (on), never (off), or (auto) if a cluster "
    "(Cloud TPU, GKE, Slurm, Open MPI) started several processes or if --coordinator_address, "
    "--num_processes and --process_id are given.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "Address HOST:PORT of process 0; needed only outside a detected cluster.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes; needed only outside a detected cluster."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Index of this process, from 0; needed only outside a detected cluster."
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder to cache compiled programs in, or off; if unset, $JAX_COMPILATION_CACHE_DIR, or else "
    "<workdir>/compiled in programs with a --workdir.",
)

GRACE_SECONDS = 5.0
"""How long a failing process waits for the others to fail too, as they do at a user error."""


def run(
    main: Callable[[list[str]], None],
    *,
    check: Callable[[], None] | None = None,
    hidden: Sequence[str] = (),
    saves_at_sigterm: bool = False,
) -> None:
    """Parses the flags, calls check and main, and exits with main's return value, 0 for None.

    `check` raises ValueError for bad flags, before JAX is imported and processes are connected.
    `hidden` names shared flags without effect on this program, which --help leaves out.

    User errors (ValueError) print one line and exit with 2; environment failures (OSError,
    RuntimeError, FloatingPointError) print one line and exit with 1. Lost standard output ends no
    program. The code is then 1, or 0 if it `saves_at_sigterm`, as all results are in files. Only
    process 0 has standard output. A process that fails alone exits after GRACE_SECONDS, and the
    others exit because they miss it. Processes that all fail or all succeed exit together.

    SIGTERM ends a program, unless it `saves_at_sigterm` and polls `preemption`.
    """

    interrupts.at_once()
    streams.protect()
    atexit.register(streams.finish)
    if "utf" not in (getattr(sys.stdout, "encoding", None) or "utf"):
        sys.stdout.reconfigure(errors="backslashreplace")  # class names may have any characters

    def guarded(argv: list[str]) -> int:
        if len(argv) > 1:
            return _fail(_unexpected(argv[1]))
        try:
            if check:
                check()
        except ValueError as error:
            return _fail(error)
        from cfg_jax.runtime import processes

        several = False
        try:
            several = (count := _connect(saves_at_sigterm)) > 1
            _prepare(count)
            with interrupts.cleaned_up():
                code = main(argv) or 0
                if several:
                    processes.wait_for_end()
            lost = streams.finish()
            return 1 if lost and not saves_at_sigterm else code
        except ValueError as error:
            code = _fail(error)
        except (FloatingPointError, OSError, RuntimeError) as error:
            code = _fail(error, code=1)
        except KeyboardInterrupt:
            code = _fail("interrupted", code=interrupts.EXIT_CODE)
        except Exception:
            if not several:
                raise
            traceback.print_exc()
            code = 1
        if several:
            _leave(code)
        return code

    app.run(guarded, flags_parser=functools.partial(_parse, hidden=hidden))


def _connect(saves_at_sigterm: bool) -> int:
    """Connects all processes of this program and returns their number."""
    import jax

    from cfg_jax.runtime import processes

    # In connected processes JAX would catch SIGTERM, unseen by a program that never polls.
    jax.config.update("jax_enable_preemption_service", saves_at_sigterm)
    return processes.start(
        _DISTRIBUTED.value,
        coordinator_address=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
    )


def _prepare(count: int) -> None:
    """Setup that can fail in one of several connected processes."""
    from cfg_jax.runtime import processes

    if count > 1:
        processes.check_devices(count)
        if not processes.is_first():
            sys.stdout = open(os.devnull, "w")
    _keep_compiled()


def _keep_compiled() -> None:
    """Sets JAX's compilation cache from the flags.

    Only process 0 writes to it. A program on another process's own devices has a different key,
    except on GPUs, and is compiled again each time. ValueError if --compilation_cache is not
    writable.
    """
    import jax

    from cfg_jax.io.files import check_writable, in_bucket

    place = _CACHE.value
    if place == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if place is None:
        workdir = flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None
        workdir = workdir[0] if isinstance(workdir, list) and workdir else workdir
        if not workdir or jax.config.jax_compilation_cache_dir:
            return
        place = os.path.join(workdir, "compiled")
    place = os.path.expanduser(place)
    try:
        check_writable(place, "--compilation_cache", "give another folder, or off")
    except ValueError:
        if _CACHE.value is None:  # the run's folder may be read-only
            return
        raise
    jax.config.update("jax_compilation_cache_dir", place)
    warnings.showwarning = _once_for_cache(place, warnings.showwarning)
    if in_bucket(place):  # XLA does not know buckets and would create a local folder
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _once_for_cache(place: str, show: Callable[..., None]) -> Callable[..., None]:
    """`show` of warnings, but one line for all programs that JAX cannot write to its cache."""
    reasons: list[str] = []

    def shown(message: Warning | str, *where: Any, **options: Any) -> None:
        text = str(message)
        if not text.startswith("Error writing persistent compilation cache entry"):
            show(message, *where, **options)
        elif not reasons:
            reasons.append(text.split(": ", 1)[-1])
            print(
                f"warning: {place} cannot be written ({reasons[0]}): programs not kept there are "
                "compiled again at the next start",
                file=sys.stderr,
            )

    return shown


def _leave(code: int) -> None:
    """Exits at once: a normal exit would wait for other processes, which may wait for this one."""
    from cfg_jax.runtime import processes

    processes.disconnect_if_all_fail(GRACE_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parse(argv: list[str], hidden: Sequence[str]) -> list[str]:
    """Sets the flags and returns the other arguments; exits after --help and for a user error."""
    if argv[1:] and not argv[1].startswith("-"):
        sys.exit(_fail(_unexpected(argv[1])))
    try:
        if fields.has_config_file():
            argv = fields.with_config_path(argv)
        if help.asked(argv[1:]):
            print(help.page(argv[0], hidden))
            if fields.has_config_file():
                print(fields.described(argv))
            sys.exit(0)
        rest = flags.FLAGS(argv)
        if not flags.FLAGS["verbosity"].present:
            _quiet()
        if fields.has_config_file() and flags.FLAGS["config"].present:
            fields.check_type(flags.FLAGS["config"].value, "--config")
        refuse_empty()
        return rest
    except flags.UnrecognizedFlagError as error:
        sys.exit(_fail(_unknown(error, argv, hidden)))
    except Exception as error:  # a config file is code
        message = fields.fault(argv, error) if fields.has_config_file() else None
        if not message and not isinstance(error, flags.Error | ValueError):
            raise
        sys.exit(_fail(message or f"{flag_error(error)} (--help lists the flags)"))


def _unknown(error: flags.UnrecognizedFlagError, argv: list[str], hidden: Sequence[str]) -> str:
    names = help.known(argv[0], hidden)
    if fields.has_config_file():
        if error.flagname.startswith("config.") and not fields.is_given(argv):
            return f"--config is missing, which has the field --{error.flagname}"
        names += [f"config.{name}" for name in fields.names(argv)]
    return f"{help.unknown(error, names)} (--help lists the flags)"


def _unexpected(argument: str) -> str:
    said = f"unexpected argument {argument!r}: "
    if re.fullmatch(r"[-+.\de]+", argument):
        return f"{said}a list has commas, as in --w=0,1,3"
    if os.path.isdir(argument) and fields.has_config_file():
        return f"{said}for a folder of pictures give --config=folder:{argument}"
    example = f", as --workdir={argument}" if "workdir" in flags.FLAGS else ""
    return f"{said}every option is a --flag=value{example}"


def _quiet() -> None:
    """Hides what libraries log and this package raises or reports itself; warnings are plain."""
    logging.set_verbosity(logging.WARNING)  # orbax logs every step
    logging.get_absl_logger().addFilter(_matters)
    logging.get_absl_handler().setFormatter(_Plain())
    # A save that fails leaves futures behind, and its error is raised as our own.
    std_logging.getLogger("asyncio").setLevel(std_logging.CRITICAL)
    std_logging.getLogger("matplotlib").setLevel(std_logging.ERROR)  # no home to cache in
    std_logging.getLogger("gcsfs").setLevel(std_logging.CRITICAL)  # each try of a request
    sys.unraisablehook = _ignore


class _Plain(std_logging.Formatter):
    """Lines as "warning: ...", like those of errors."""

    def format(self, record: std_logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def _matters(record: std_logging.LogRecord) -> bool:
    """Whether to log a record: False for libraries whose errors are raised as our own.

    TFDS warns of folders about to be created and of missing optional image decoders, orbax of
    damaged files that an error reports.
    """
    return not any(name in record.pathname for name in ("tensorflow_datasets", "orbax"))


def _ignore(unraisable: object) -> None:
    """Prints nothing of an exception that Python or a library in C++ ignored in a callback."""


def _fail(message: object, code: int = 2) -> int:
    if isinstance(message, BaseException) and logging.level_debug():
        traceback.print_exception(message)
    if isinstance(message, OSError) and message.filename and message.strerror:
        message = (
            f"{message.filename} cannot be used ({message.strerror}): check the path, its "
            "permissions and the space on its disk, or give another"
        )
    if "googleapis.com" in str(message):  # of the library for buckets
        message = f"{message}: check the network, or run `gcloud auth application-default login`"
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return code

"""Standard streams that are closed, full or broken."""

import errno
import io
import os
import subprocess
import sys

import pytest
from absl import logging

from cfg_jax.io import text
from launch import program, streams
from tests.programs import ROOT


class Full(io.StringIO):
    """A stream on a disk that is full until `space` is set."""

    space = False

    def write(self, text):
        if not self.space:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_full_disk_is_told_once_and_writing_goes_on_when_there_is_space():
    told, disk = [], Full()
    stream = streams.Stream(disk, told.append)
    print("lost", file=stream, flush=True)
    print("lost too", file=stream, flush=True)
    assert [error.errno for error in told] == [errno.ENOSPC] and stream.failed
    disk.space = True
    print("kept", file=stream, flush=True)
    assert disk.getvalue() == "kept\n"
    assert not stream.isatty()


def test_a_stream_without_errors_has_none():
    stream = streams.Stream(io.StringIO())
    print("kept", file=stream)
    assert stream.failed is None and stream.getvalue() == "kept\n"


def test_control_characters_in_a_name_do_not_reach_the_terminal():
    stream = streams.Stream(io.StringIO())
    print("\x1b]0;title\x07 caf\u00e9\t\r \x9b31m", file=stream)
    assert stream.getvalue() == "\\x1b]0;title\\x07 caf\u00e9\t\r \\x9b31m\n"


def test_a_name_cannot_turn_a_line_or_end_a_program():
    stream = streams.Stream(io.TextIOWrapper(io.BytesIO(), "utf-8"))
    print("abc\u202egpj.exe caf\udcff\u2028", file=stream, flush=True)
    assert stream.buffer.getvalue() == b"abc\\u202egpj.exe caf\\udcff\\u2028\n"


def test_streams_and_pages_escape_the_same_characters():
    every = "".join(map(chr, range(0x3000))) + "\ud800\udfff"
    stream = streams.Stream(io.StringIO(newline=""))
    stream.write(every)
    assert stream.getvalue() == text.printable(every)


def test_control_characters_in_a_log_do_not_reach_the_terminal(own_streams):
    own_streams.setattr(sys, "stderr", io.StringIO())
    streams.protect()
    logging.get_absl_handler().python_handler.stream.write("damaged: \x1b[31m")
    assert sys.stderr.getvalue() == "damaged: \\x1b[31m"


@pytest.fixture
def own_streams(monkeypatch):
    """Streams of this process that a test may replace."""
    handler = logging.get_absl_handler().python_handler
    monkeypatch.setattr(handler, "stream", handler.stream)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    return monkeypatch


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_connected_to_the_null_device(tmp_path, closed):
    # Only a process of its own has closed streams from its start.
    program = "from launch import streams; streams.protect(); import sys; print('out')"
    program += "; print('err', file=sys.stderr); open(sys.argv[1], 'w').write('own')"
    command = f'"$0" -c "$1" "$2" {closed}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, program, tmp_path / "file"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    wanted = ("" if closed.startswith(">") else "out\n", "" if "2>" in closed else "err\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, *wanted)
    assert (tmp_path / "file").read_text() == "own"


def test_lost_output_is_told_on_standard_error_and_at_the_end(own_streams):
    errors, replaced = io.StringIO(), []
    own_streams.setattr(sys, "stdout", Full())
    own_streams.setattr(sys, "stderr", errors)
    own_streams.setattr(os, "dup2", lambda null, number: replaced.append(number))
    streams.protect()
    print("a result")
    assert streams.finish().errno == errno.ENOSPC and replaced == [1]
    assert errors.getvalue() == (
        "warning: standard output cannot be written (No space left on device): going on without "
        "it\n"
    )


def test_a_cache_of_programs_that_cannot_be_written_is_told_once(capsys):
    others = []
    show = program._once_for_cache("runs/compiled", lambda *given: others.append(given))
    for name in ("jit_a", "jit_b"):
        error = "OSError: [Errno 28] No space left on device"
        text = f"Error writing persistent compilation cache entry for '{name}': {error}"
        show(UserWarning(text), UserWarning, "compiler.py", 1)
    assert capsys.readouterr().err == (
        f"warning: runs/compiled cannot be written ({error}): programs not kept there are compiled "
        "again at the next start\n"
    )
    show("another", UserWarning, "module.py", 2)
    assert others == [("another", UserWarning, "module.py", 2)]


def test_a_file_that_cannot_be_used_is_named_with_the_reason_and_what_to_do(capsys):
    with pytest.raises(OSError) as missing:
        open("/nowhere/file")
    assert program._fail(missing.value, code=1) == 1
    assert capsys.readouterr().err == (
        "error: /nowhere/file cannot be used (No such file or directory): check the path, its "
        "permissions and the space on its disk, or give another\n"
    )

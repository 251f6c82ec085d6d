"""Ctrl-C: one line and code 130 while modules are imported, an exception while a program works."""

import os
import signal
import sys

import pytest

from launch import interrupts


@pytest.fixture(autouse=True)
def ends(monkeypatch):
    """What would be written to standard error; instead of its end, the process gets SystemExit."""
    found, write = [], os.write

    def end(code):
        raise SystemExit(code)

    def kept(stream, text):
        return found.append(text) if stream == 2 else write(stream, text)

    monkeypatch.setattr(os, "write", kept)
    monkeypatch.setattr(os, "_exit", end)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield found
    signal.signal(signal.SIGINT, before)


def interrupt():
    with pytest.raises(SystemExit) as stop:
        signal.raise_signal(signal.SIGINT)
    assert stop.value.code == 130


def test_before_and_after_its_work_a_program_ends_at_once_in_one_line(ends):
    interrupts.at_once()
    interrupt()
    with interrupts.cleaned_up():
        pass
    interrupt()
    assert ends == [b"error: interrupted\n"] * 2


def test_at_work_the_first_is_an_exception_and_the_second_ends_at_once(ends):
    interrupts.at_once()
    with pytest.raises(KeyboardInterrupt), interrupts.cleaned_up():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            assert not ends
            interrupt()
    interrupt()


def test_a_module_that_is_imported_at_work_is_no_place_for_an_exception(
    ends, tmp_path, monkeypatch
):
    # Libraries turn a KeyboardInterrupt in their imports into other errors, or ignore it.
    (tmp_path / "slow_import.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit), interrupts.cleaned_up():
        __import__("slow_import")
    assert len(ends) == 1 and "slow_import" not in sys.modules


def test_where_it_is_ignored_it_stays_so(ends):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.at_once()
    with interrupts.cleaned_up():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN and not ends

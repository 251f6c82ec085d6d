"""Reading of pickles that somebody else may have made, without calling what they name.

`load` knows the instructions that `torch.save` writes. It builds dicts, lists, tuples and numbers;
what a pickle names is looked up and called by the caller's own `Names`. A pickle takes up to 80
times its bytes of memory. A dict in itself and deep nesting are no faults.
"""

import pickle
import struct
from collections.abc import Callable
from typing import Any, Protocol

from cfg_jax.io.text import one_line

MOST_BYTES = 2**24
"""Largest pickle; one of 100,000 tensors has as many."""

_MOST_NAME = 1000  # bytes

_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_EMPTY = {pickle.EMPTY_DICT: dict, pickle.EMPTY_LIST: list, pickle.EMPTY_TUPLE: tuple}
_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


class Rejected(ValueError):
    """Error for a pickle with code, or with instructions that `torch.save` does not write."""


class Stream:
    """Bytes read from a position on, MOST_BYTES in all; an access past the end is a ValueError."""

    def __init__(self, content: Any, position: int, stop: int):
        self._content, self.position = content, position
        self._stop = min(stop, position + MOST_BYTES)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if not 0 <= count <= self._stop - self.position:
            raise ValueError(f"its pickle ends before {count} more bytes")
        self.position += count
        return bytes(self._content[self.position - count : self.position])

    def number(self, form: str) -> Any:
        """The next number, of a format of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The next characters up to a line feed."""
        longest = min(_MOST_NAME, self._stop - self.position)
        found = bytes(self._content[self.position : self.position + longest]).find(b"\n")
        if found < 0:
            raise ValueError("its pickle has a name without an end")
        return self.take(found + 1)[:-1].decode()


class Names(Protocol):
    """Meaning of the names in a pickle."""

    def find(self, name: str) -> Any:
        """The value of a function's or class's name; raises Rejected for code."""

    def call(self, function: Any, arguments: tuple) -> Any:
        """The result of a value that `find` returned."""

    def persistent(self, identity: Any) -> Any:
        """The value of an object that is stored outside of the pickle."""


def load(stream: Stream, names: Names) -> Any:
    """The value of the pickle at the stream's position, which is moved behind it.

    Raises Rejected for code and unknown instructions, and other errors for a damaged pickle.
    """
    return _Machine(stream, names).run()


def put(target: Any, key: Any, value: Any) -> None:
    """target[key] = value, if target is a dict and key is text, a number or a tuple of those."""
    for part in key if isinstance(key, tuple) else (key,):
        # Python hashes a tuple again at each use: tuples of the same tuple would take forever.
        if not isinstance(part, str | bytes | int | float | None):
            raise Rejected(f"it has a dict with a key of type {type(part).__name__}")
    if not isinstance(target, dict):
        raise ValueError(f"it fills a {type(target).__name__} as a dict")
    target[key] = value


class _Machine:
    """Stack machine of one pickle."""

    def __init__(self, stream: Stream, names: Names):
        self.stream, self.names = stream, names
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := self.stream.take(1)) != pickle.STOP:
            if code in _CONSTANTS:
                self.stack.append(_CONSTANTS[code])
            elif code in _EMPTY:
                self.stack.append(_EMPTY[code]())
            elif code in _NUMBERS:
                self.stack.append(self.stream.number(_NUMBERS[code]))
            elif code in _TUPLES:
                self.stack.append(tuple(self.pop(_TUPLES[code])))
            elif code in _STEPS:
                _STEPS[code](self)
            else:
                raise Rejected("it is not a plain state dict")
        return self.stack.pop()

    def pop(self, count: int) -> list[Any]:
        """The last values of the stack, in order."""
        if count > len(self.stack):
            raise ValueError("its pickle lacks values")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def after_mark(self) -> list[Any]:
        taken, self.stack = self.stack, self.marked.pop()
        return taken

    def protocol(self) -> None:
        self.stream.take(1)

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def join(self) -> None:
        values = tuple(self.after_mark())
        self.stack.append(values)

    def text(self) -> None:
        taken = self.stream.take(self.stream.number("<I"))
        self.stack.append(taken.decode("utf-8", "surrogatepass"))

    def short_text(self) -> None:
        """Text of Python 2."""
        self.stack.append(self.stream.take(self.stream.number("<B")).decode())

    def long(self) -> None:
        taken = self.stream.take(self.stream.number("<B"))
        self.stack.append(int.from_bytes(taken, "little", signed=True))

    def get(self, form: str) -> None:
        self.stack.append(self.memo[self.stream.number(form)])

    def keep(self, form: str) -> None:
        self.memo[self.stream.number(form)] = self.stack[-1]

    def append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError(f"it fills a {type(self.stack[-1]).__name__} as a list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        for key, value in zip(values[::2], values[1::2], strict=True):
            put(self.stack[-1], key, value)

    def name(self) -> None:
        self.stack.append(self.names.find(one_line(f"{self.stream.line()}.{self.stream.line()}")))

    def call(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(arguments, tuple):
            raise ValueError("its pickle calls without a tuple")
        self.stack.append(self.names.call(function, arguments))

    def build(self) -> None:
        """Drops an object's further attributes."""
        self.pop(1)

    def persistent(self) -> None:
        self.stack.append(self.names.persistent(*self.pop(1)))


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: _Machine.protocol,
    pickle.MARK: _Machine.mark,
    pickle.TUPLE: _Machine.join,
    pickle.BINUNICODE: _Machine.text,
    pickle.SHORT_BINSTRING: _Machine.short_text,
    pickle.LONG1: _Machine.long,
    pickle.BINGET: lambda machine: machine.get("<B"),
    pickle.LONG_BINGET: lambda machine: machine.get("<I"),
    pickle.BINPUT: lambda machine: machine.keep("<B"),
    pickle.LONG_BINPUT: lambda machine: machine.keep("<I"),
    pickle.APPEND: lambda machine: machine.append(machine.pop(1)),
    pickle.APPENDS: lambda machine: machine.append(machine.after_mark()),
    pickle.SETITEM: lambda machine: machine.set_items(machine.pop(2)),
    pickle.SETITEMS: lambda machine: machine.set_items(machine.after_mark()),
    pickle.GLOBAL: _Machine.name,
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.persistent,
}

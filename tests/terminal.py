"""Lines that a terminal shows after a program's output, and a stream that passes for one."""

import io


class Terminal(io.StringIO):
    """A stream that says that it is a terminal, and knows what it shows."""

    def isatty(self):
        return True

    def lines(self):
        return shown(self.getvalue())


def shown(text):
    """The lines on a terminal: a carriage return writes over the line that is there."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        cells = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines

"""Text of names and errors, for messages, pages and pictures.

A class, folder or data set may have any name. Its control characters would change a terminal, those
of direction the order of a line, and lone surrogates, bytes that are no UTF-8, cannot be written;
nor can U+FFFE and U+FFFF in XML.
"""

_SPACES = "\t\n\r"
_HIDDEN = [*range(32), *range(127, 160), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF]
_DIRECTION = [0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = {code: f"\\x{code:02x}" for code in _HIDDEN if code < 256 and chr(code) not in _SPACES}
_SHOWN |= {code: f"\\u{code:04x}" for code in _HIDDEN + _DIRECTION if code > 255}


def printable(text: str) -> str:
    """`text` with characters that are not shown themselves as escapes, except tab and line end."""
    return text.translate(_SHOWN)


def one_line(text: object) -> str:
    """`str(text)`, such as that of an error, printable and with blanks for line ends."""
    return printable(" ".join(str(text).split()))


def extra(name: str) -> str:
    """How to install an extra of this package, for an error."""
    return f"`pip install '.[{name}]'` in a checkout of cfg_jax"


def short(name: object, most: int = 48) -> str:
    """`one_line` for a picture, without the middle of a text of more than `most` characters."""
    text = one_line(name)
    end = most // 3
    return text if len(text) <= most else f"{text[: most - end - 3]}...{text[-end:]}"


def shown(name: object) -> str:
    """A name that a file gave, quoted and shortened."""
    return short(repr(name), 100)

"""Text on one line, for messages."""


def one_line(text: object) -> str:
    """`str(text)`, such as that of an error, with every run of whitespace replaced by one blank."""
    return " ".join(str(text).split())

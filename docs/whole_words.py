"""MkDocs hook that says where a line break may divide the words of inline code.

Browsers break a line after any hyphen, so that a flag would end a line as `--`. A word of at most
_LONGEST characters moves to the next line as a whole; a longer one may break after its separators.
"""

import re

_LONGEST = 36  # fits a telephone
_CODE = re.compile(r"<pre>.*?</pre>|<code>([^<]+)</code>", re.DOTALL)
_WORD = re.compile(r"\S+")
_SEPARATOR = re.compile(r"(?<=[_/:=,])(?=\w)")


def on_page_content(html: str, **_) -> str:
    """The page with a span of class `whole` or with <wbr> in each word of inline code."""

    def marked(code: re.Match) -> str:
        return f"<code>{_WORD.sub(_marked, code[1])}</code>" if code[1] else code[0]

    return _CODE.sub(marked, html)


def _marked(word: re.Match) -> str:
    if len(word[0]) > _LONGEST:
        return _SEPARATOR.sub("<wbr>", word[0])
    return f'<span class="whole">{word[0]}</span>'

"""Errors that name a setting by its path in the config, for a reader who knows only the config."""

import contextlib
import re
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def by_path(section: str, names: Iterable[str]) -> Iterator[None]:
    """Context whose ValueErrors have config.model.width=50 for width=50 in section "model".

    `names` are the fields of the section. An error that shows the value of none of them begins with
    the section.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        if "config." in text:
            raise
        known = "|".join(map(re.escape, names))
        found = re.sub(rf"(?<![\w.])({known})(?==| has )", rf"config.{section}.\1", text)
        if found == text:
            found = f"config.{section}: {text}"
        raise ValueError(found) from error

"""Which name was meant by one that does not exist?

Case and punctuation do not count, and words of other libraries have their name here: "DDIM" and
"euler" are ddim, "dpm++_2m" is dpmpp_2m, "epsilon" is eps.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

_WORDS: Mapping[str, Mapping[str, str]] = {
    "solver": {
        "ddpm": "ancestral",
        "eulera": "ancestral",
        "eulerancestral": "ancestral",
        "eulerancestraldiscrete": "ancestral",
        "euler": "ddim",
        "eulerdiscrete": "ddim",
        "dpm": "dpmpp_2m",
        "dpmsolver": "dpmpp_2m",
        "dpmsolverpp": "dpmpp_2m",
        "dpmpp2mkarras": "dpmpp_2m, with grid='karras'",
        "dpmsolvermultistep": "dpmpp_2m",
        "dpmsolversinglestep": "dpmpp_2s",
        "unipc": "unipc_2",
        "unipcmultistep": "unipc_2",
        "deis": "deis_2",
        "deismultistep": "deis_2",
        "heundiscrete": "heun",
    },
    "prediction": {
        "epsilon": "eps",
        "noise": "eps",
        "vprediction": "v",
        "velocity": "v",
        "sample": "x",
        "xstart": "x",
        "x0": "x",
    },
    "rule": {"cfgpp": "schedule='cfgpp'"},
    "dtype": {"bf16": "bfloat16", "fp32": "float32"},
}
"""Words of other libraries for an argument, as `_plain`, with the name here."""


def meant(argument: str, given: Any, allowed: Collection[str]) -> str:
    """The name in `allowed` that a text means, as "; did you mean ddim?"; "" if none is near."""
    if not isinstance(given, str) or not allowed:
        return ""
    plain, names = _plain(given), {_plain(name): name for name in allowed}
    begun = [each for each in names if plain and each.startswith(plain)]
    near = begun or difflib.get_close_matches(plain, names, n=1)
    found = _WORDS.get(argument, {}).get(plain) or (names[near[0]] if near else "")
    return f"; did you mean {found}?" if found else ""


def _plain(name: str) -> str:
    """A name in lower case without punctuation, "+" as in DPM++ as p."""
    kept = "".join(filter(str.isalnum, name.lower().replace("+", "p")))
    return kept.removesuffix("scheduler")

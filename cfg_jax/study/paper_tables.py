"""Published FID and IS over the guidance weight, from Ho & Salimans 2022, tables 1 and 2.

They use 50,000 samples, at 64 x 64 for three p_uncond and at 128 x 128 for three numbers of steps.
`published` compares only results of the same model, sampler and protocol (`Result`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cfg_jax.config.validate import flatten
from cfg_jax.evaluation.networks import INCEPTION
from cfg_jax.evaluation.result import Result

Numbers = tuple[float, float]
"""(FID, IS)."""


class PublishedTable(NamedTuple):
    """A table of the paper.

    config, swept: fields of the config and of `Result.swept` that a result must match.
    column, columns: field of `Result.swept` that differs between columns, and its values.
    rows: {w: ((FID, IS) of every column)}.
    """

    config: Mapping[str, Any]
    swept: Mapping[str, Any]
    column: str
    columns: tuple[float, ...]
    rows: Mapping[float, tuple[Numbers, ...]]


_SAMPLER = {"solver": "ancestral", "grid": "schedule", "respacing": "", "classifier": None}
_SAMPLER |= {"schedule": "constant", "interval": [], "rule": "cfg", "weaker": None}
_SAMPLER |= {"against": "null", "threshold": 0.0, "dtype": ""}
_SAMPLER |= {"noise_temperature": 1, "score_temperature": 1}
_PROTOCOL = {"network": INCEPTION, "num_samples": 50_000}


def _model(size: int, channels: int, channel_mult: list[int], num_blocks: int) -> dict[str, Any]:
    return {
        "data.name": "imagenet2012",
        "data.image_size": size,
        "data.resize": "area",
        "network": "unet",
        "model.channels": channels,
        "model.channel_mult": channel_mult,
        "model.num_blocks": num_blocks,
        "model.attention_resolutions": [32, 16, 8],
        "diffusion.schedule": "continuous",
        "diffusion.logsnr_min": -20,
        "diffusion.logsnr_max": 20,
        "diffusion.learned_variance": False,
        "diffusion.low_res_size": 0,
    }


TABLE_1 = PublishedTable(
    _model(64, 192, [1, 2, 3, 4], 3),
    # The table does not state T; 256 is the natural reading.
    _SAMPLER | {"logvar_interp": 0.3, "num_steps": 256},
    "p_uncond",
    (0.1, 0.2, 0.5),
    {
        0.0: ((1.8, 53.71), (1.8, 52.9), (2.21, 47.61)),
        0.1: ((1.55, 66.11), (1.62, 64.58), (1.91, 56.1)),
        0.2: ((2.04, 78.91), (2.1, 76.99), (2.08, 65.6)),
        0.3: ((3.03, 92.8), (2.93, 88.64), (2.65, 74.92)),
        0.4: ((4.3, 106.2), (4.0, 101.11), (3.44, 84.27)),
        0.5: ((5.74, 119.3), (5.19, 112.15), (4.34, 92.95)),
        0.6: ((7.19, 131.1), (6.48, 122.13), (5.27, 102.0)),
        0.7: ((8.62, 141.8), (7.73, 131.6), (6.23, 109.8)),
        0.8: ((10.08, 151.6), (8.9, 140.82), (7.25, 116.9)),
        0.9: ((11.41, 161.0), (10.09, 150.26), (8.21, 124.6)),
        1.0: ((12.6, 170.1), (11.21, 158.29), (9.13, 131.1)),
        2.0: ((21.03, 225.5), (18.79, 212.98), (16.16, 183.0)),
        3.0: ((24.83, 250.4), (22.36, 237.65), (19.75, 208.9)),
        4.0: ((26.22, 260.2), (23.84, 248.97), (21.48, 225.1)),
    },
)

TABLE_2 = PublishedTable(
    _model(128, 256, [1, 1, 2, 3, 4], 2),
    _SAMPLER | {"logvar_interp": 0.2},
    "num_steps",
    (128, 256, 1024),
    {
        0.0: ((8.11, 81.46), (7.27, 82.45), (7.22, 81.54)),
        0.1: ((5.31, 105.01), (4.53, 106.12), (4.5, 104.67)),
        0.2: ((3.7, 130.79), (3.03, 132.54), (3.0, 130.09)),
        0.3: ((3.04, 156.09), (2.43, 158.47), (2.43, 156.0)),
        0.4: ((3.02, 183.01), (2.49, 183.41), (2.48, 180.88)),
        0.5: ((3.43, 206.94), (2.98, 207.98), (2.96, 204.31)),
        0.6: ((4.09, 227.72), (3.76, 228.83), (3.73, 226.76)),
        0.7: ((4.96, 247.92), (4.67, 249.25), (4.69, 247.89)),
        0.8: ((5.93, 265.54), (5.74, 267.99), (5.71, 265.52)),
        0.9: ((6.89, 280.19), (6.8, 283.41), (6.81, 281.14)),
        1.0: ((7.88, 295.29), (7.86, 297.98), (7.8, 294.56)),
        2.0: ((15.9, 378.56), (15.93, 377.37), (15.75, 373.18)),
        3.0: ((19.77, 409.16), (19.77, 407.44), (19.56, 405.68)),
        4.0: ((21.55, 422.29), (21.53, 421.03), (21.45, 419.06)),
    },
)


def published(result: Result) -> Numbers | None:
    """(FID, IS) in the paper for the same settings, or None."""
    w, config = round(result.swept["w"], 6), dict(flatten(result.record["config"]))
    config.setdefault("data.resize", "area")  # results older than this field
    for table in (TABLE_1, TABLE_2):
        pairs = ((config, table.config), (result.swept, table.swept), (result.protocol, _PROTOCOL))
        column = result.swept[table.column]
        alike = all(ours | theirs == ours for ours, theirs in pairs)
        if alike and w in table.rows and column in table.columns:
            return table.rows[w][table.columns.index(column)]
    return None

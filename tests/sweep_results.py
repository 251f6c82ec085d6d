"""Results of a sweep, made without one."""

import json
from pathlib import Path

from cfg_jax.config.validate import to_json
from cfg_jax.evaluation import Result
from cfg_jax.evaluation.networks import INCEPTION
from cfg_jax.study.paper_tables import TABLE_1
from configs import digits, imagenet64, imagenet128


def made_result(w, fid, score, *, config=None, protocol=(), **swept):
    """A cell of the digits, by default with p_uncond 0.1 and T = 32."""
    config = digits.get_config() if config is None else config
    cell = {
        "w": float(w),
        "num_steps": 32,
        "solver": "ancestral",
        "grid": "schedule",
        "eta": 0.0,
        "churn": 0.0,
        "schedule": "constant",
        "interval": [],
        "rule": "cfg",
        "weaker": None,
        "against": "null",
        "threshold": 0.0,
        "dtype": "",
        "logvar_interp": config.sampling.logvar_interp,
        "clip_x": True,
        "respacing": "",
        "classifier_w": 0.0,
        "classifier_form": "eps",
        "noise_temperature": 1.0,
        "score_temperature": 1.0,
        "classifier": None,
        "checkpoint": 900,
        "p_uncond": 0.1,
    } | swept
    cell.setdefault("model", f"model{cell['p_uncond']}")
    measured_by = {
        "network": "digits_features",
        "network_sha256": "ab" * 32,
        "resize": "none",
        "num_samples": 5000,
        "label_plan": "balanced",
        "ema": True,
        "image_shape": [8, 8, 1],
        "reference": "digits train",
        "reference_sha256": "cd" * 32,
        "reference_count": 1500,
        "score_split": 5000,
    } | dict(protocol)
    record = {
        "seed": 0,
        "config": to_json(config),
        "classifier_config": None,
        "versions": {"jax": "0.10.2"},
        "warnings": [],
    }
    name = json.dumps(cell, sort_keys=True).encode().hex()[-16:]
    metrics = {"fid": float(fid), "is": float(score), "is_std": 0.0}
    return Result(metrics, measured_by, cell, record, Path(f"runs/{w}_{name}/result.json"))


def paper_results(table, **protocol):
    """Results for every cell of a table of the paper, with the paper's numbers as ours."""
    config = (imagenet64 if table is TABLE_1 else imagenet128).get_config()
    measured_by = {"network": INCEPTION, "num_samples": 50_000} | protocol
    return [
        made_result(
            w,
            *pair,
            config=config,
            protocol=measured_by,
            **({"num_steps": 256} | {table.column: column}),
        )
        for w, row in table.rows.items()
        for column, pair in zip(table.columns, row, strict=True)
    ]

"""Tags of metrics in TensorBoard and Weights & Biases, "group/name".

metrics.jsonl keeps the plain names, which earlier files have too.
"""

_TAGS = {
    "drop_rate": "data/drop_rate",
    "eps_mse": "loss/eps_mse",
    "flop_utilisation": "speed/flop_utilisation",
    "grad_norm": "grad/norm",
    "images_per_second": "speed/images_per_second",
    "learning_rate": "optimizer/learning_rate",
    "memory_peak": "memory/peak",
    "param_norm": "params/norm",
    "skipped": "optimizer/skipped",
    "vlb": "loss/vlb",
}
_GROUPS = ("loss", "accuracy")


def tag(name: str) -> str:
    """The tag of a metric, such as "loss/all" for "loss"; an unknown name is its own tag."""
    group, _, rest = name.partition("_")
    if group in _GROUPS:
        return f"{group}/{rest or 'all'}"
    return _TAGS.get(name, name)

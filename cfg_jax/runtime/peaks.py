"""Peak speed of devices: dense bfloat16 FLOPs per second.

Sources: the pages "TPU v3" to "TPU7x" of Cloud TPU's documentation (docs.cloud.google.com/tpu/docs)
and NVIDIA's data sheets of each GPU; a speed printed with sparsity is halved.
"""

TPU_CHIPS = {
    "v3": 123e12,
    "v4": 275e12,
    "v5e": 197e12,
    "v5p": 459e12,
    "v6e": 918e12,
    "tpu7x": 2307e12,
}
"""Peak of a TPU chip, all cores."""

# By the start of a device's name in JAX; the cores of a v3 or 7x chip are two devices.
_DEVICES = {
    "TPU v3": TPU_CHIPS["v3"] / 2,
    "TPU v4": TPU_CHIPS["v4"],
    "TPU v5": TPU_CHIPS["v5p"],
    "TPU v5 lite": TPU_CHIPS["v5e"],
    "TPU v5e": TPU_CHIPS["v5e"],
    "TPU v6": TPU_CHIPS["v6e"],
    "TPU7x": TPU_CHIPS["tpu7x"] / 2,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}
_UNLIKE = ("TPU v4 lite", "NVIDIA H200 NVL", "NVIDIA L40")  # begin like others, with another peak


def peak_flops(device_kind: str) -> float | None:
    """Peak of a device by its name in JAX, such as "TPU v5 lite"; None if it is not known."""
    if " MIG " in device_kind:  # a part of a GPU
        return None
    names = [name for name in (*_DEVICES, *_UNLIKE) if device_kind.startswith(name)]
    return _DEVICES.get(max(names, key=len, default=""))

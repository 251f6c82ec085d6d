"""ADM's U-Net in PyTorch, with the parameters of `cfg_jax.UNet`, as a rival to time against.

    network = TorchUNet(64, (1, 2, 2, 2), 2, (16, 8), 64, 32, num_labels=11, in_channels=3)
    network.load_state_dict(from_flax(params))

Written from the paper and from this library's own networks, the way a PyTorch user would write it
for speed. Images are [B, C, H, W]; modules have the names of the Flax parameters. Only ADM's own
choices are there: adaptive group norm and residual blocks that change the resolution.

Source: Dhariwal & Nichol 2021 (ADM), sections 3 and 3.1.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NoiseEmbedding(nn.Module):
    """Linear(SiLU(Linear(sinusoidal(position)))) of a logsnr [B]: [B, 4 features]."""

    def __init__(self, features: int):
        super().__init__()
        self.Dense_0 = nn.Linear(features, 4 * features)
        self.Dense_1 = nn.Linear(4 * features, 4 * features)
        half = features // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, logsnr: Tensor) -> Tensor:
        position = 2000 / math.pi * torch.arctan(torch.exp(-logsnr / 2))
        angles = position[:, None] * self.frequencies
        embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.Dense_1(F.silu(self.Dense_0(embedding)))


class ResBlock(nn.Module):
    """h + Conv(SiLU(AdaGN(Conv(SiLU(GroupNorm(h))), emb))), both terms resampled."""

    def __init__(self, width: int, channels: int, emb: int, groups: int, resample: str = ""):
        super().__init__()
        self.resample = resample
        self.norm_in = nn.GroupNorm(groups, width)
        self.conv_in = nn.Conv2d(width, channels, 3, padding=1)
        self.emb = nn.Linear(emb, 2 * channels)
        self.norm_out = nn.GroupNorm(groups, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_skip = nn.Conv2d(width, channels, 1) if width != channels else nn.Identity()

    def forward(self, skip: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm_in(skip))
        if self.resample == "down":
            skip, h = F.avg_pool2d(skip, 2), F.avg_pool2d(h, 2)
        if self.resample == "up":
            skip, h = (F.interpolate(x, scale_factor=2.0, mode="nearest") for x in (skip, h))
        scale, shift = self.emb(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm_out(self.conv_in(h)), 1 + scale)
        return self.conv_skip(skip) + self.conv_out(F.silu(h))


class Attention(nn.Module):
    """h + Linear(softmax(q k^T / sqrt(d)) v) over all pixels, q, k, v = Linear(GroupNorm(h))."""

    def __init__(self, channels: int, head_channels: int, groups: int):
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).unflatten(2, (3, -1, self.head_channels))
        out = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        out = self.proj(out.transpose(1, 2).flatten(2))
        return h + out.transpose(1, 2).reshape(h.shape)


class TorchUNet(nn.Module):
    """(z [B, C, H, W], logsnr [B], labels [B]) -> [B, out_channels, H, W].

    The arguments are those of `cfg_jax.UNet`; num_labels includes the null label, and `size` is the
    height of the images.
    """

    def __init__(
        self,
        channels: int,
        channel_mult: Sequence[int],
        num_blocks: int,
        attention_resolutions: Sequence[int],
        head_channels: int,
        norm_groups: int,
        *,
        num_labels: int,
        in_channels: int = 3,
        out_channels: int = 3,
        size: int = 32,
    ):
        super().__init__()
        emb, widths = 4 * channels, [channels * mult for mult in channel_mult]
        self.logsnr_embedding = NoiseEmbedding(channels)
        self.label_embedding = nn.Embedding(num_labels, emb)
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)

        def block(name: str, width: int, channels: int, resample: str = "") -> None:
            self.add_module(name, ResBlock(width, channels, emb, norm_groups, resample))

        def attention(name: str, channels: int, size: int) -> None:
            if size in attention_resolutions or name == "middle_attention":
                self.add_module(name, Attention(channels, head_channels, norm_groups))

        width, skips, last = channels, [channels], len(widths) - 1
        for level, channels in enumerate(widths):
            for i in range(num_blocks):
                block(f"down_{level}_{i}", width, channels)
                attention(f"down_{level}_{i}_attention", channels, size >> level)
                width = channels
                skips.append(width)
            if level < last:
                block(f"down_{level}", width, width, "down")
                skips.append(width)
        block("middle_0", width, width)
        attention("middle_attention", width, size >> last)
        block("middle_1", width, width)
        for level, channels in reversed(list(enumerate(widths))):
            for i in range(num_blocks + 1):
                block(f"up_{level}_{i}", width + skips.pop(), channels)
                attention(f"up_{level}_{i}_attention", channels, size >> level)
                width = channels
            if level:
                block(f"up_{level}", width, width, "up")
        self.norm_out = nn.GroupNorm(norm_groups, width)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, z: Tensor, logsnr: Tensor, labels: Tensor) -> Tensor:
        emb = self.logsnr_embedding(logsnr) + self.label_embedding(labels)
        h = self.conv_in(z)
        skips = [h]
        for name, module in self.named_children():  # in the order of their creation
            if isinstance(module, Attention):
                h = module(h)
                if name.startswith("down"):
                    skips[-1] = h
            elif isinstance(module, ResBlock):
                if name.startswith("up") and not module.resample:
                    h = torch.cat([h, skips.pop()], dim=1)
                h = module(h, emb)
                if name.startswith("down"):
                    skips.append(h)
        return self.conv_out(F.silu(self.norm_out(h)))


def from_flax(params: Mapping) -> dict[str, Tensor]:
    """The state dict of `TorchUNet` for parameters of `cfg_jax.UNet`, or for their gradients."""
    state = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            state |= {f"{name}.{rest}": array for rest, array in from_flax(value).items()}
            continue
        array = np.asarray(value)
        if name == "kernel":  # [H, W, in, out] or [in, out]
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        state["bias" if name == "bias" else "weight"] = torch.from_numpy(np.array(array, order="C"))
    return state

"""The rivals' programs for `networks.py`: the same computations in PyTorch."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.network_jax import (
    CLASSES,
    EMA_DECAY,
    FORM,
    LOGSNR_MAX,
    LOGSNR_MIN,
    OPTIMIZER,
    P_UNCOND,
    SIZE,
)
from benchmarks.torch_adm import TorchUNet, from_flax


class WithTimestep(nn.Module):
    """A network of (z, timestep in 0..1000, labels) as one of (z, logsnr, labels)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, logsnr: Tensor, labels: Tensor) -> Tensor:
        position = 2000 / math.pi * torch.arctan(torch.exp(-logsnr / 2))
        out = self.network(z, position, labels)
        return out if isinstance(out, Tensor) else out.sample


def rivals(params: dict, guided_diffusion: str | None) -> dict[str, nn.Module]:
    """{name: network}; prints a line for each that is not here."""
    found: dict[str, nn.Module] = {}
    for name, form in (
        ("PyTorch", torch.contiguous_format),
        ("PyTorch, channels last", torch.channels_last),
    ):
        network = TorchUNet(*FORM.values(), num_labels=CLASSES + 1, size=SIZE)
        network.load_state_dict(from_flax(params))
        found[name] = network.to(memory_format=form)
    try:
        found["diffusers UNet2DModel"] = WithTimestep(of_diffusers())
    except ImportError:
        print("diffusers: not run, pip install diffusers")
    except RuntimeError as error:  # its imports fail, as with a torchvision for another torch
        print(f"diffusers: not run, {str(error).splitlines()[-1]}")
    if guided_diffusion:
        found["guided-diffusion"] = WithTimestep(of_guided_diffusion(guided_diffusion))
    else:
        print("guided-diffusion: not run, give the path of a checkout as --guided_diffusion")
    return found


def of_diffusers() -> nn.Module:
    """diffusers' U-Net of the same widths, blocks and attention, the closest available form."""
    from diffusers import UNet2DModel

    attends = [SIZE >> level in FORM["attention_resolutions"] for level in range(4)]
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        block_out_channels=[FORM["channels"] * mult for mult in FORM["channel_mult"]],
        layers_per_block=FORM["num_blocks"],
        down_block_types=["AttnDownBlock2D" if at else "DownBlock2D" for at in attends],
        up_block_types=["AttnUpBlock2D" if at else "UpBlock2D" for at in reversed(attends)],
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=FORM["head_channels"],
        norm_num_groups=FORM["norm_groups"],
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=CLASSES + 1,
    )


def of_guided_diffusion(path: str) -> nn.Module:
    """The original U-Net from a checkout of openai/guided-diffusion."""
    if not (Path(path) / "guided_diffusion" / "unet.py").exists():
        raise SystemExit(f"--guided_diffusion={path}: no guided_diffusion/unet.py there")
    sys.path.insert(0, path)
    from guided_diffusion.unet import UNetModel

    return UNetModel(
        image_size=SIZE,
        in_channels=3,
        model_channels=FORM["channels"],
        out_channels=3,
        num_res_blocks=FORM["num_blocks"],
        attention_resolutions=[SIZE // size for size in FORM["attention_resolutions"]],
        channel_mult=FORM["channel_mult"],
        num_classes=CLASSES + 1,
        num_head_channels=FORM["head_channels"],
        use_scale_shift_norm=True,
        resblock_updown=True,
    )


def programs(network: nn.Module, given: dict[str, np.ndarray], channels_last: bool) -> dict:
    """{program: function without arguments}, as `network_jax.programs`."""
    form = torch.channels_last if channels_last else torch.contiguous_format

    def images(name: str) -> Tensor:
        array = torch.from_numpy(given[name].transpose(0, 3, 1, 2).copy())
        return array.contiguous(memory_format=form)

    z, logsnr = images("z"), torch.from_numpy(given["logsnr"])
    labels = torch.from_numpy(given["labels"]).long()

    def forward() -> Tensor:
        with torch.inference_mode():
            return network(z, logsnr, labels)

    def gradient() -> dict[str, Tensor]:
        network.zero_grad(set_to_none=True)
        network(z, logsnr, labels).square().mean().backward()
        return {name: value.grad for name, value in network.named_parameters()}

    return {
        "forward": forward,
        "forward + backward": gradient,
        "training step": training(network, images("x"), labels),
    }


def training(network: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], float]:
    """A function that makes a step: loss, clipping, Adam, moving average."""
    params = list(network.parameters())
    rates = {"lr": OPTIMIZER["learning_rate"], "betas": (OPTIMIZER["b1"], OPTIMIZER["b2"])}
    optimizer = torch.optim.Adam(params, **rates)
    ema = [value.detach().clone() for value in params]
    low, high = (math.atan(math.exp(-logsnr / 2)) for logsnr in (LOGSNR_MAX, LOGSNR_MIN))

    def run() -> float:
        u = torch.rand(len(x))
        logsnr = -2 * torch.log(torch.tan(low + (high - low) * u))
        alpha, sigma = (torch.sigmoid(r).sqrt()[:, None, None, None] for r in (logsnr, -logsnr))
        eps = torch.randn_like(x)
        seen = torch.where(torch.rand(len(x)) < P_UNCOND, CLASSES, labels)
        v = network(alpha * x + sigma * eps, logsnr, seen)
        loss = nn.functional.mse_loss(v, alpha * eps - sigma * x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(params, OPTIMIZER["grad_clip"])
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, [value.detach() for value in params], 1 - EMA_DECAY)
        return loss.item()

    return run

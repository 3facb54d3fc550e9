"""The networks of latent diffusion of `ddpm-lab bench --latent`: the U-Nets are diffusers' own, the diffusion transformer is in
plain PyTorch, as diffusers' has no tokens. The same shapes, the same work, the same conversation as in peer.py.
"""
import argparse
import contextlib
import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--latent", required=True, choices=["unet", "dit", "sd15"])
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--channels-last", action="store_true")
options = parser.parse_args()


def say(**answer):
    print(json.dumps(answer), flush=True)


class Attention(nn.Module):
    def __init__(self, channels, tokens, heads):
        super().__init__()
        self.q, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.k, self.v = nn.Linear(tokens, channels), nn.Linear(tokens, channels)
        self.heads = heads

    def forward(self, x, to):
        q, k, v = (
            project(of).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project, of in ((self.q, x), (self.k, to), (self.v, to))
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, channels, tokens, heads):
        super().__init__()
        self.modulation = nn.Linear(channels, 6 * channels)
        self.own, self.cross = Attention(channels, channels, heads), Attention(channels, tokens, heads)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x, time, tokens):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(time)[:, None].chunk(6, 2)
        normed = lambda x, scale, shift: F.layer_norm(x, x.shape[2:], eps=1e-6) * (1 + scale) + shift
        h = normed(x, scale1, shift1)
        x = x + gate1 * self.own(h, h)
        x = x + self.cross(self.norm(x), tokens)
        h = self.narrow(F.gelu(self.wide(normed(x, scale2, shift2)), approximate="tanh"))
        return x + gate2 * h


class DiT(nn.Module):
    """Peebles & Xie 2023, with attention to tokens as Chen et al. 2023 have it."""

    def __init__(self, channels=384, depth=8, heads=6, patch=2, size=16, tokens=128):
        super().__init__()
        self.patch, self.grid = patch, size // patch
        self.embed = nn.Conv2d(4, channels, patch, patch)
        self.time1, self.time2 = nn.Linear(256, channels), nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(Block(channels, tokens, heads) for _ in range(depth))
        self.last, self.out = nn.Linear(channels, 2 * channels), nn.Linear(channels, patch * patch * 4)
        frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("places", torch.randn(1, self.grid**2, channels), persistent=False)

    def forward(self, x, t, tokens):
        angles = t[:, None] * self.frequencies
        time = self.time2(F.silu(self.time1(torch.cat([angles.cos(), angles.sin()], 1))))
        time = F.silu(time)
        h = self.embed(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            h = block(h, time, tokens)
        shift, scale = self.last(time)[:, None].chunk(2, 2)
        h = self.out(F.layer_norm(h, h.shape[2:], eps=1e-6) * (1 + scale) + shift)
        h = h.unflatten(1, (self.grid, self.grid)).unflatten(3, (self.patch, self.patch, 4))
        return h.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def unet(channels, size, heads, token_width):
    """A U-Net of Stable Diffusion 1 with these channels, and transformers on all levels but the fourth."""
    from diffusers import UNet2DConditionModel

    crossed = min(3, len(channels))
    plain = len(channels) - crossed
    return UNet2DConditionModel(
        sample_size=size,
        block_out_channels=channels,
        attention_head_dim=heads,
        cross_attention_dim=token_width,
        down_block_types=("CrossAttnDownBlock2D",) * crossed + ("DownBlock2D",) * plain,
        up_block_types=("UpBlock2D",) * plain + ("CrossAttnUpBlock2D",) * crossed,
    )


torch.set_num_threads(options.threads)
torch.manual_seed(0)
full_size = options.latent == "sd15"
if full_size and options.bf16:
    torch.set_default_dtype(torch.bfloat16)
if options.latent == "dit":
    network = DiT()
elif full_size:
    network = unet((320, 640, 1280, 1280), 64, 8, 768)
else:
    network = unet((96, 192, 192), 16, (3, 6, 6), 128)
shape, tokens = ((1, 4, 64, 64), (1, 77, 768)) if full_size else ((8, 4, 16, 16), (8, 24, 128))
x, noise, tokens = torch.randn(shape), torch.randn(shape), torch.randn(tokens)
t = torch.arange(shape[0]) * 999 // shape[0]
if options.channels_last:
    network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
called = torch.compile(network) if options.compile else network
mixed = options.bf16 and not full_size
precision = lambda: torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext()


def predicted():
    if options.latent == "dit":
        return called(x, t.float(), tokens)
    return called(x, t, tokens, return_dict=False)[0]


if full_size:
    network.requires_grad_(False)
else:
    average = [weight.detach().clone() for weight in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, eps=1e-8)


def forward():
    with torch.no_grad(), precision():
        predicted().float().sum().item()


def train():
    """What a step of ours does as well: loss, gradients, global norm, Adam, average of the weights."""
    with precision():
        prediction = predicted()
    loss = F.mse_loss(prediction.float(), noise)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(average, list(network.parameters()), 1e-4)
    loss.item()


def measure(work, repeats):
    """The first run is for warming up. With the time of the clock, that of the processor: what a busy machine leaves."""
    walls, cpus = [], []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    say(seconds=walls[1:], cpu_seconds=cpus[1:])


words = [("bf16", options.bf16), ("channels last", options.channels_last), ("compile", options.compile)]
package = torch
if options.latent != "dit":
    import diffusers as package
say(
    name=" ".join([package.__name__.replace("torch", "PyTorch"), package.__version__.split("+")[0]] + [word for word, on in words if on]),
    parameters=sum(weight.numel() for weight in network.parameters()),
    threads=torch.get_num_threads(),
)
for line in sys.stdin:
    command, _, number = line.partition(" ")
    number = int(number or 1)
    command = command.strip()
    if command == "memory":
        say(peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif command in ("forward", "train"):
        measure({"forward": forward, "train": train}[command], number)
    else:
        say(error="no such command: " + command)

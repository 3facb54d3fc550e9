"""The U-Net of `ddpm-lab bench` in plain PyTorch: the same shapes, the same work, the same conversation.

Commands come as lines on stdin, answers go as lines of JSON to stdout; see process.rs.
"""
import argparse
import contextlib
import json
import math
import resource
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--channels", type=int, default=64)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--size", type=int, default=32)
numbers = lambda text: [int(number) for number in text.split(",") if number]
parser.add_argument("--image-channels", type=int, default=3)
parser.add_argument("--level-channels", type=numbers, help="of each level; one to two times --channels if left out")
parser.add_argument("--blocks", type=int, default=2)
parser.add_argument("--attention", type=numbers, default=[16], help="widths in pixels of the levels that attend")
parser.add_argument("--groups", type=int, default=32)
parser.add_argument("--classes", type=int, default=0, help="with the one that stands for none")
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--channels-last", action="store_true")
parser.add_argument("--start", help="open this snapshot with diffusers, take one denoising step, and end")
options = parser.parse_args()
levels = options.level_channels or [options.channels * multiplier for multiplier in (1, 2, 2, 2)]


def say(**answer):
    print(json.dumps(answer), flush=True)


if options.start:
    try:
        import torch
        from diffusers import DDPMPipeline
    except ImportError as error:
        say(error=str(error))
        sys.exit()
    torch.set_num_threads(options.threads)
    unet = DDPMPipeline.from_pretrained(options.start).unet
    with torch.no_grad():
        labels = [torch.zeros(1, dtype=torch.long)] if options.classes else []
        unet(torch.randn(1, options.image_channels, options.size, options.size), 999, *labels).sample.sum().item()
    say(done=True)
    sys.exit()

import torch
import torch.nn.functional as F
from torch import nn


def normalise(channels):
    return nn.GroupNorm(options.groups, channels, eps=1e-6)


def convolve(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class Residual(nn.Module):
    def __init__(self, inputs, outputs, time_width):
        super().__init__()
        self.norm1, self.conv1 = normalise(inputs), convolve(inputs, outputs)
        self.time = nn.Linear(time_width, outputs)
        self.norm2, self.conv2 = normalise(outputs), convolve(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(time)[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = normalise(channels)
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x):
        batch, channels, height, width = x.shape
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (project(h).unsqueeze(1) for project in (self.q, self.k, self.v))
        h = self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return x + h.transpose(1, 2).reshape(batch, channels, height, width)


class Stage(nn.Module):
    def __init__(self, inputs, outputs, time_width, attends):
        super().__init__()
        self.residual = Residual(inputs, outputs, time_width)
        self.attention = Attention(outputs) if attends else nn.Identity()

    def forward(self, x, time):
        return self.attention(self.residual(x, time))


class UNet(nn.Module):
    def __init__(self, base, size):
        super().__init__()
        width, channels, waiting = 4 * base, base, [base]
        last, blocks, images = len(levels) - 1, options.blocks, options.image_channels
        attends = [size >> level in options.attention for level in range(last + 1)]
        self.base, self.conv_in = base, convolve(images, base)
        self.time1, self.time2 = nn.Linear(base, width), nn.Linear(width, width)
        self.classes = nn.Embedding(options.classes, width) if options.classes else None
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, outputs in enumerate(levels):
            for _ in range(blocks):
                self.down.append(Stage(channels, outputs, width, attends[level]))
                channels = outputs
                waiting.append(channels)
            if level < last:
                self.down.append(convolve(channels, channels, 2))
                waiting.append(channels)
        self.middle1, self.middle2 = Stage(channels, channels, width, True), Residual(channels, channels, width)
        for level in range(last, -1, -1):
            outputs = levels[level]
            for _ in range(blocks + 1):
                self.up.append(Stage(channels + waiting.pop(), outputs, width, attends[level]))
                channels = outputs
            if level > 0:
                self.up.append(convolve(channels, channels))
        self.norm_out, self.conv_out = normalise(channels), convolve(channels, images)
        half = base // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x, t):
        angles = t[:, None] * self.frequencies
        time = torch.cat([angles.sin(), angles.cos()], 1)
        time = self.time2(F.silu(self.time1(time)))
        time = F.silu(time if self.classes is None else time + self.classes(labels))
        h = self.conv_in(x)
        waiting = [h]
        for module in self.down:
            h = module(h, time) if isinstance(module, Stage) else module(h)
            waiting.append(h)
        h = self.middle2(self.middle1(h, time), time)
        for module in self.up:
            if isinstance(module, Stage):
                h = module(torch.cat([h, waiting.pop()], 1), time)
            else:
                h = module(F.interpolate(h, scale_factor=2, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))


torch.set_num_threads(options.threads)
torch.manual_seed(0)
shape = (options.batch, options.image_channels, options.size, options.size)
network = UNet(options.channels, options.size)
if options.channels_last:
    network = network.to(memory_format=torch.channels_last)
average = [weight.detach().clone() for weight in network.parameters()]
optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, eps=1e-8)
called = torch.compile(network) if options.compile else network
precision = lambda: torch.autocast("cpu", torch.bfloat16) if options.bf16 else contextlib.nullcontext()
memory = torch.channels_last if options.channels_last else torch.contiguous_format
labels = torch.arange(options.batch) % max(1, options.classes)
x, noise, t = torch.randn(shape).to(memory_format=memory), torch.randn(shape), torch.randint(0, 1000, shape[:1]).float()
alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def forward():
    with torch.no_grad(), precision():
        called(x, t).float().sum().item()


def train():
    """What a step of ours does as well: loss, gradients, global norm, Adam, average of the weights."""
    with precision():
        prediction = called(x, t)
    loss = F.mse_loss(prediction.float(), noise)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(average, list(network.parameters()), 1e-4)
    loss.item()


def sample(steps):
    with torch.no_grad(), precision():
        sample = torch.randn(shape)
        levels = [int(i * 999 / (steps - 1)) for i in range(steps)][::-1]
        for level, following in zip(levels, levels[1:] + [None]):
            now = alpha_bar[level].item()
            later = 1.0 if following is None else alpha_bar[following].item()
            eps = called(sample, torch.full((options.batch,), float(level))).float()
            clean = ((sample - math.sqrt(1 - now) * eps) / math.sqrt(now)).clamp(-1, 1)
            eps = (sample - math.sqrt(now) * clean) / math.sqrt(1 - now)
            sample = math.sqrt(later) * clean + math.sqrt(1 - later) * eps
        sample.sum().item()


def load(batches):
    """Batches of shuffled bytes as pictures in [-1, 1], with noise and times."""
    data = torch.utils.data.TensorDataset(torch.randint(0, 256, (1024, *shape[1:]), dtype=torch.uint8))
    loader = torch.utils.data.DataLoader(data, options.batch, shuffle=True, drop_last=True)
    done = 0
    while done < batches:
        for (pictures,) in loader:
            pictures = pictures.float() / 127.5 - 1
            torch.randn_like(pictures), torch.randint(0, 1000, (options.batch,))
            done += 1
            if done == batches:
                break


def multiply():
    size = 1536
    a, b = torch.randn(size, size), torch.randn(size, size)
    if options.bf16:
        a, b = a.bfloat16(), b.bfloat16()
    with torch.no_grad():
        a @ b


def measure(work, repeats, share=1):
    """The first run is for warming up. With the time of the clock, that of the processor: what a busy machine leaves."""
    walls, cpus = [], []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append((time.perf_counter() - wall) * share)
        cpus.append((time.process_time() - cpu) * share)
    say(seconds=walls[1:], cpu_seconds=cpus[1:])


name = "PyTorch " + torch.__version__.split("+")[0] + (" bf16" if options.bf16 else "")
name += (" compile" if options.compile else "") + (" channels-last" if options.channels_last else "")
say(
    name=name,
    parameters=sum(weight.numel() for weight in network.parameters()),
    threads=torch.get_num_threads(),
)
for line in sys.stdin:
    command, _, number = line.partition(" ")
    number = int(number or 1)
    command = command.strip()
    if command == "memory":
        say(peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif command == "sample":
        measure(lambda: sample(number), 1)
    elif command == "load":
        measure(lambda: load(number), 3, 1 / number)
    elif command in ("forward", "train", "multiply"):
        measure({"forward": forward, "train": train, "multiply": multiply}[command], number)
    else:
        say(error="no such command: " + command)

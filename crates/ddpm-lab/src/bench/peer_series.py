"""The networks for time series of `ddpm-lab bench --series` in plain PyTorch: the same shapes, the same work, the same
conversation as in peer.py. Written from the papers and their descriptions.
"""
import argparse
import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--series", required=True, choices=["csdi", "sssd", "timegrad"])
parser.add_argument("--size", type=int, required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--full", action="store_true")
options = parser.parse_args()


def say(**answer):
    print(json.dumps(answer), flush=True)


def point(inputs, outputs):
    return nn.Conv1d(inputs, outputs, 1)


class Encoder(nn.Module):
    def __init__(self, channels=64, heads=8):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(channels, heads, dim_feedforward=64, dropout=0.0, activation="gelu")

    def forward(self, x):
        return self.layer(x)


class CsdiLayer(nn.Module):
    def __init__(self, side, channels=64, step=128):
        super().__init__()
        self.step = nn.Linear(step, channels)
        self.cond, self.mid, self.out = point(side, 2 * channels), point(channels, 2 * channels), point(channels, 2 * channels)
        self.time, self.feature = Encoder(), Encoder()

    def forward(self, x, side, step):
        batch, channels, variables, length = x.shape
        y = x + self.step(step)[:, :, None, None]
        y = y.permute(3, 0, 2, 1).reshape(length, batch * variables, channels)
        y = self.time(y).reshape(length, batch, variables, channels)
        y = y.permute(2, 1, 0, 3).reshape(variables, batch * length, channels)
        y = self.feature(y).reshape(variables, batch, length, channels)
        y = y.permute(1, 3, 0, 2).reshape(batch, channels, variables * length)
        y = self.mid(y) + self.cond(side)
        gate, value = y.chunk(2, 1)
        y = self.out(torch.sigmoid(gate) * torch.tanh(value))
        residual, skip = y.reshape(batch, 2 * channels, variables, length).chunk(2, 1)
        return (x + residual) / math.sqrt(2), skip


class Csdi(nn.Module):
    steps, layers, channels = 50, 4, 64

    def __init__(self, variables):
        super().__init__()
        self.variables = nn.Embedding(variables, 16)
        self.step1, self.step2 = nn.Linear(128, 128), nn.Linear(128, 128)
        self.first, self.last, self.zero = point(2, 64), point(64, 64), point(64, 1)
        self.blocks = nn.ModuleList(CsdiLayer(145) for _ in range(self.layers))
        angles = torch.arange(self.steps)[:, None] * 10 ** (torch.arange(64) / 63 * 4)[None]
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], 1), persistent=False)

    def side(self, times, given):
        batch, variables, length = given.shape
        frequency = 10000 ** -(torch.arange(0, 128, 2) / 128)
        angles = times[:, :, None] * frequency
        time = torch.stack([angles.sin(), angles.cos()], 3).flatten(2)
        time = time.transpose(1, 2)[:, :, None].expand(batch, 128, variables, length)
        feature = self.variables.weight.t()[None, :, :, None].expand(batch, 16, variables, length)
        return torch.cat([time, feature, given[:, None]], 1)

    def forward(self, x, side, t):
        batch, _, variables, length = x.shape
        step = F.silu(self.step2(F.silu(self.step1(self.table[t]))))
        side = side.reshape(batch, -1, variables * length)
        x = F.relu(self.first(x.reshape(batch, 2, -1))).reshape(batch, 64, variables, length)
        skips = []
        for block in self.blocks:
            x, skip = block(x, side, step)
            skips.append(skip)
        x = torch.stack(skips).sum(0) / math.sqrt(len(skips))
        return self.zero(F.relu(self.last(x.reshape(batch, 64, -1)))).reshape(batch, variables, length)


def normed(inputs, outputs, width=1):
    return nn.utils.weight_norm(nn.Conv1d(inputs, outputs, width, padding=width // 2))


class S4(nn.Module):
    """The kernel is built at every step from the diagonal plus a term of low rank, by sums over all states."""

    def __init__(self, features, length, states=64):
        super().__init__()
        half = states // 2
        self.c = nn.Parameter(torch.randn(2, features, half, 2) * 0.5**0.5)
        self.d = nn.Parameter(torch.randn(1, features))
        self.out = nn.Linear(features, features)
        self.length = length
        self.register_buffer("log_dt", torch.rand(features) * math.log(100) + math.log(1e-3))
        w = torch.complex(torch.full((half,), -0.5), math.pi * torch.arange(half).float())
        low = torch.complex(torch.sqrt(torch.arange(half) + 0.5), torch.zeros(half))
        self.register_buffer("w", w.expand(features, half).contiguous())
        self.register_buffer("b", (low * 2**0.5).expand(1, features, half).contiguous())
        self.register_buffer("p", low.expand(1, features, half).contiguous())
        omega = torch.exp(-2j * math.pi * torch.arange(length // 2 + 1) / length)
        self.register_buffer("omega", omega.to(torch.complex64))
        self.register_buffer("z", (2 * (1 - omega) / (1 + omega)).to(torch.complex64))

    def kernel(self):
        dt = self.log_dt.exp()
        c = torch.view_as_complex(self.c)
        w = self.w * dt[:, None]
        b = torch.cat([self.b, self.p])
        c = torch.cat([c, self.p.conj()])
        v = b[:, None] * c[None]
        r = (v[..., None] / (self.z - w[..., None])).sum(-2) * dt[:, None]
        k = r[:-1, :-1] - r[:-1, -1:] * r[-1:, :-1] / (1 + r[-1:, -1:])
        k = k * 2 / (1 + self.omega)
        return torch.fft.irfft(k[0], n=self.length)

    def forward(self, x):
        k, length = self.kernel(), self.length
        both = F.pad(k[0], (0, length)) + F.pad(k[1].flip(-1), (length, 0))
        y = torch.fft.irfft(torch.fft.rfft(x, n=2 * length) * torch.fft.rfft(both), n=2 * length)[..., :length]
        y = F.gelu(y + x * self.d[..., None])
        return torch.einsum("oh,bhl->bol", self.out.weight, y) + self.out.bias[:, None]


class S4Layer(nn.Module):
    def __init__(self, features, length):
        super().__init__()
        self.s4, self.norm = S4(features, length), nn.LayerNorm(features)

    def forward(self, x):
        y = self.s4(x) + x
        return self.norm(y.transpose(-1, -2)).transpose(-1, -2)


class SssdBlock(nn.Module):
    def __init__(self, channels, width, length):
        super().__init__()
        features = 2 * width
        self.step = nn.Linear(512, width)
        self.conv, self.cond = normed(width, features, 3), normed(2 * channels, features)
        self.s4_1, self.s4_2 = S4Layer(features, length), S4Layer(features, length)
        self.residual, self.skip = normed(width, width), normed(width, width)

    def forward(self, x, condition, step):
        h = self.conv(x + self.step(step)[:, :, None])
        h = self.s4_2(self.s4_1(h) + self.cond(condition))
        a, b = h.chunk(2, 1)
        h = torch.tanh(a) * torch.sigmoid(b)
        return (x + self.residual(h)) * math.sqrt(0.5), self.skip(h)


class Sssd(nn.Module):
    def __init__(self, channels, width, layers, length):
        super().__init__()
        self.step1, self.step2 = nn.Linear(128, 512), nn.Linear(512, 512)
        self.first, self.last, self.zero = normed(channels, width), normed(width, width), point(width, channels)
        self.blocks = nn.ModuleList(SssdBlock(channels, width, length) for _ in range(layers))

    def forward(self, x, condition, t):
        frequency = torch.exp(-math.log(10000) * torch.arange(64) / 63)
        angles = t[:, None] * frequency
        step = F.silu(self.step2(F.silu(self.step1(torch.cat([angles.sin(), angles.cos()], 1)))))
        h, total = F.relu(self.first(x)), 0
        for block in self.blocks:
            h, skip = block(h, condition, step)
            total = total + skip
        return self.zero(F.relu(self.last(total * math.sqrt(1 / len(self.blocks)))))


class TimeGradBlock(nn.Module):
    def __init__(self, dilation, channels=8):
        super().__init__()
        self.dilated = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation, padding_mode="circular")
        self.step, self.cond = nn.Linear(64, channels), nn.Conv1d(1, 2 * channels, 1, padding=2, padding_mode="circular")
        self.out = point(channels, 2 * channels)

    def forward(self, x, step, condition):
        y = self.dilated(x + self.step(step)[:, :, None]) + self.cond(condition)
        gate, value = y.chunk(2, 1)
        y = F.leaky_relu(self.out(torch.sigmoid(gate) * torch.tanh(value)), 0.4)
        residual, skip = y.chunk(2, 1)
        return (x + residual) / math.sqrt(2), skip


class Denoiser(nn.Module):
    def __init__(self, variables):
        super().__init__()
        self.first = nn.Conv1d(1, 8, 1, padding=2, padding_mode="circular")
        self.step1, self.step2 = nn.Linear(32, 64), nn.Linear(64, 64)
        self.up1, self.up2 = nn.Linear(100, variables // 2), nn.Linear(variables // 2, variables)
        self.blocks = nn.ModuleList(TimeGradBlock(2 ** (i % 2)) for i in range(8))
        self.skip, self.out = nn.Conv1d(8, 8, 3), nn.Conv1d(8, 1, 3)
        angles = torch.arange(500)[:, None] * 10 ** (torch.arange(16) * 4 / 16)[None]
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], 1), persistent=False)

    def forward(self, x, t, condition):
        x = F.leaky_relu(self.first(x), 0.4)
        step = F.silu(self.step2(F.silu(self.step1(self.table[t]))))
        condition = F.leaky_relu(self.up2(F.leaky_relu(self.up1(condition), 0.4)), 0.4)
        skips = []
        for block in self.blocks:
            x, skip = block(x, step, condition)
            skips.append(skip)
        x = torch.stack(skips).sum(0) / math.sqrt(len(skips))
        return self.out(F.leaky_relu(self.skip(x), 0.4))


class TimeGrad(nn.Module):
    context, horizon, lags, features, steps = 12, 12, (1, 2, 7), 4, 100

    def __init__(self, variables):
        super().__init__()
        self.embed = nn.Embedding(variables, 1)
        self.rnn = nn.GRU(variables * (len(self.lags) + 1) + self.features, 40, 2, batch_first=True)
        self.project, self.denoiser = nn.Linear(40, 100), Denoiser(variables)
        betas = torch.linspace(1e-4, 0.1, self.steps, dtype=torch.float64)
        bars = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
        tables = {
            "signal": bars.sqrt(),
            "noise": (1 - bars).sqrt(),
            "recip": (1 / bars).sqrt(),
            "recip_noise": (1 / bars - 1).sqrt(),
            "log_variance": (betas * (1 - before) / (1 - bars)).clamp(min=1e-20).log(),
            "of_clean": betas * before.sqrt() / (1 - bars),
            "of_noisy": (1 - before) * (1 - betas).sqrt() / (1 - bars),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def read(self, sequence, scale, features, state=None):
        batch, steps, _ = features.shape
        length, variables = sequence.shape[1:]
        lags = torch.stack([sequence[:, length - steps - lag : length - lag] for lag in self.lags], 3)
        lags = (lags / scale[..., None]).flatten(2)
        embedding = self.embed.weight.reshape(1, 1, -1).expand(batch, steps, variables)
        return self.rnn(torch.cat([lags, embedding, features], 2), state)

    def loss(self, past, future, past_features, future_features, t, noise):
        scale = past[:, -self.context :].abs().mean(1, keepdim=True).clamp(min=1e-10)
        sequence = torch.cat([past, future], 1)
        features = torch.cat([past_features[:, -self.context :], future_features], 1)
        condition = self.project(self.read(sequence, scale, features)[0])
        target = (sequence[:, -self.context - self.horizon :] / scale).flatten(0, 1)[:, None]
        noisy = self.signal[t][:, None, None] * target + self.noise[t][:, None, None] * noise
        return F.mse_loss(self.denoiser(noisy, t, condition.flatten(0, 1)[:, None]), noise)

    def sample(self, condition, variables):
        x = torch.randn(len(condition), 1, variables)
        for step in range(self.steps - 1, -1, -1):
            t = torch.full((len(condition),), step)
            of = lambda table: table.gather(0, t)[:, None, None]
            eps = self.denoiser(x, t, condition)
            clean = of(self.recip) * x - of(self.recip_noise) * eps
            mean = of(self.of_clean) * clean + of(self.of_noisy) * x
            x = mean + (step > 0) * (0.5 * of(self.log_variance)).exp() * torch.randn_like(x)
        return x

    def forecast(self, past, past_features, future_features, paths):
        scale = past[:, -self.context :].abs().mean(1, keepdim=True).clamp(min=1e-10)
        _, state = self.read(past, scale, past_features[:, -self.context :])
        past, scale, features = (x.repeat_interleave(paths, 0) for x in (past, scale, future_features))
        state = state.repeat_interleave(paths, 1)
        for step in range(self.horizon):
            blank = torch.cat([past, torch.zeros_like(past[:, :1])], 1)
            output, state = self.read(blank, scale, features[:, step : step + 1], state)
            sample = self.sample(self.project(output), past.shape[2])
            past = torch.cat([past, sample * scale], 1)
        return past[:, -self.horizon :]


torch.set_num_threads(options.threads)
torch.manual_seed(0)
size, batch = options.size, options.batch
if options.series == "csdi":
    network = Csdi(size)
    shape = (batch, size, 48)
    values, noise, t = torch.randn(shape), torch.randn(shape), torch.arange(batch) * 49 // batch
    given = (values > 0).float()
    times = torch.arange(48).float()[None].expand(batch, 48)

    def loss():
        noisy = 0.6 * values + 0.8 * noise
        side = network.side(times, given)
        predicted = network(torch.stack([values * given, noisy * (1 - given)], 1), side, t)
        error = (noise - predicted) * (1 - given)
        return (error**2).sum() / (1 - given).sum()

elif options.series == "sssd":
    network = Sssd(4, *((256, 36) if options.full else (64, 6)), size)
    shape = (batch, 4, size)
    values, noise, t = torch.randn(shape), torch.randn(shape), torch.arange(batch).float() * 20
    mask = (values > 0).float()

    def loss():
        condition = torch.cat([values * mask, mask], 1)
        predicted = network(values + noise, condition, t)
        return ((predicted - noise) ** 2 * (1 - mask)).sum() / (1 - mask).sum()

else:
    network = TimeGrad(size)
    lengths = (12 + max(network.lags), 12)
    windows = lambda count: [torch.randn(count, length, width) for width in (size, 4) for length in lengths]
    t, noise = torch.arange(batch * 24) * 7 % 100, torch.randn(batch * 24, 1, size)
    past, future, past_features, future_features = windows(batch)

    def loss():
        return network.loss(past, future, past_features, future_features, t, noise)


optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)


def forward():
    with torch.no_grad():
        loss().item()


def train():
    value = loss()
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    optimizer.step()
    value.item()


def forecast(paths):
    past, _, past_features, future_features = windows(1)
    with torch.no_grad():
        network.forecast(past, past_features, future_features, paths).sum().item()


def measure(work, repeats):
    """The first run is for warming up. With the time of the clock, that of the processor: what a busy machine leaves."""
    walls, cpus = [], []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    say(seconds=walls[1:], cpu_seconds=cpus[1:])


say(
    name="PyTorch " + torch.__version__.split("+")[0],
    parameters=sum(weight.numel() for weight in network.parameters()),
    threads=torch.get_num_threads(),
)
for line in sys.stdin:
    command, _, number = line.partition(" ")
    number = int(number or 1)
    command = command.strip()
    if command == "memory":
        say(peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    elif command == "forecast":
        measure(lambda: forecast(number), 1)
    elif command in ("forward", "train"):
        measure({"forward": forward, "train": train}[command], number)
    else:
        say(error="no such command: " + command)

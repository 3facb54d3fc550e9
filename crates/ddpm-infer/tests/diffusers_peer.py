"""The other side of diffusers_peer.rs: diffusers itself, on the CPU.

  make FOLDER         writes pipelines of briefly fitted networks, and what they sample: cases.json says what is where
  open SNAPSHOT ...   samples from a snapshot of ours: seed, count, steps and the file for the samples
  autoencoder FOLDER  writes an AutoencoderKL of random weights into FOLDER/theirs, and images with what is left of them
                      into x.npy and theirs.npy; what a snapshot of ours in FOLDER/ours leaves of gray.npy into ours.npy
"""

import inspect
import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMPipeline, DDPMPipeline, UNet2DModel

COUNT = 3
FIT_STEPS = 150

NETWORKS = {
    "heads": (
        dict(
            sample_size=16,
            block_out_channels=(32, 32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            attention_head_dim=16,
            norm_num_groups=8,
        ),
        dict(beta_schedule="linear", num_train_timesteps=1000),
    ),
    "paper": (
        dict(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(24, 48),
            down_block_types=("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D"),
            layers_per_block=2,
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            norm_num_groups=6,
        ),
        dict(beta_schedule="squaredcos_cap_v2", num_train_timesteps=400, prediction_type="v_prediction"),
    ),
    "residual": (
        dict(
            sample_size=(16, 8),
            block_out_channels=(16, 32, 32),
            down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
            up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attn_norm_num_groups=4,
            layers_per_block=1,
            attention_head_dim=8,
            norm_num_groups=4,
        ),
        dict(beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.03, num_train_timesteps=600),
    ),
}

# Class, steps (0: all that there are), settings, and arguments of a step.
SCHEDULERS = [
    ("DDPMScheduler", 0, {}, {}),
    ("DDPMScheduler", 40, dict(variance_type="fixed_large"), {}),
    ("DDIMScheduler", 20, {}, {}),
    ("DDIMScheduler", 13, dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1), {}),
    ("DDIMScheduler", 20, dict(timestep_spacing="trailing"), dict(eta=0.7)),
    ("DDIMScheduler", 20, dict(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5), {}),
    ("PNDMScheduler", 20, {}, {}),
    ("PNDMScheduler", 15, dict(skip_prk_steps=True, set_alpha_to_one=True), {}),
    ("DPMSolverMultistepScheduler", 20, {}, {}),
    ("DPMSolverMultistepScheduler", 12, dict(use_karras_sigmas=True, solver_order=3), {}),
    ("DPMSolverMultistepScheduler", 10, dict(solver_type="heun", timestep_spacing="leading", steps_offset=1), {}),
    ("DPMSolverSinglestepScheduler", 11, {}, {}),
    ("EulerDiscreteScheduler", 20, {}, {}),
    ("EulerDiscreteScheduler", 14, dict(use_karras_sigmas=True), {}),
    ("EulerDiscreteScheduler", 14, dict(timestep_spacing="leading", use_exponential_sigmas=True), {}),
    ("EulerAncestralDiscreteScheduler", 20, dict(timestep_spacing="trailing"), {}),
    ("HeunDiscreteScheduler", 10, {}, {}),
    ("HeunDiscreteScheduler", 10, dict(use_karras_sigmas=True), {}),
    ("LMSDiscreteScheduler", 15, {}, {}),
    ("DEISMultistepScheduler", 15, {}, {}),
    ("UniPCMultistepScheduler", 10, {}, {}),
    ("UniPCMultistepScheduler", 10, dict(solver_type="bh1", solver_order=3, final_sigmas_type="sigma_min"), {}),
]


def blobs(count, shape, generator):
    """Soft spots of light, something that a small network learns in seconds."""
    channels, height, width = shape
    rows = torch.linspace(-1, 1, height)[None, None, :, None]
    columns = torch.linspace(-1, 1, width)[None, None, None, :]
    centre = torch.rand(count, channels, 1, 1, 2, generator=generator) * 1.4 - 0.7
    spread = torch.rand(count, channels, 1, 1, generator=generator) * 0.4 + 0.2
    distance = (rows - centre[..., 0]) ** 2 + (columns - centre[..., 1]) ** 2
    return 1.8 * torch.exp(-distance / spread**2) - 0.9


def fit(unet, scheduler, shape):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(unet.parameters(), lr=2e-3)
    steps = scheduler.config.num_train_timesteps
    for _ in range(FIT_STEPS):
        x_0 = blobs(24, shape, generator)
        noise = torch.randn(x_0.shape, generator=generator)
        t = torch.randint(0, steps, (24,), generator=generator)
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(x_0, noise, t)
        loss = ((unet(scheduler.add_noise(x_0, noise, t), t).sample - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unet.eval()
    return loss.item()


def size_of(unet):
    size = unet.config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)


@torch.no_grad()
def trajectory(unet, scheduler, steps, seed, arguments):
    """The loop that all pipelines of diffusers have in common."""
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    shape = (COUNT, unet.config.in_channels, *size_of(unet))
    x = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
    known = inspect.signature(scheduler.step).parameters
    arguments = dict(arguments, **({"generator": generator} if "generator" in known else {}))
    for t in scheduler.timesteps:
        out = unet(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(out, t, x, **arguments).prev_sample
    return x


def by_pipeline(folder, steps, seed, count, arguments):
    """What `from_pretrained(folder)` gives, in [-1, 1]."""
    pipeline = (DDIMPipeline if arguments else DDPMPipeline).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    images = pipeline(
        batch_size=count, generator=generator, num_inference_steps=steps, output_type="np", **arguments
    ).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


def make(root):
    cases = []
    for name, (network, schedule) in NETWORKS.items():
        torch.manual_seed(0)
        unet = UNet2DModel(**network)
        ddpm = diffusers.DDPMScheduler(**schedule)
        loss = fit(unet, ddpm, (unet.config.in_channels, *size_of(unet)))
        print(f"{name}: {sum(p.numel() for p in unet.parameters())} parameters, loss {loss:.3f}", file=sys.stderr)
        for number, (kind, steps, settings, arguments) in enumerate(SCHEDULERS):
            scheduler = getattr(diffusers, kind)(**{**schedule, **settings})
            steps = steps or schedule["num_train_timesteps"]
            # Karras levels of a cosine end among times that round to the same step, over which the peer stumbles.
            stumbles = kind.startswith("DPM") and "use_karras_sigmas" in settings
            # Its PNDM looks back over v, which ours refuses.
            looks_back_over_v = kind == "PNDMScheduler" and "prediction_type" in schedule
            if (stumbles and "squared" in schedule["beta_schedule"]) or looks_back_over_v:
                continue
            folder = root / f"{name}-{number:02}"
            wrapper = DDIMPipeline if kind == "DDIMScheduler" else DDPMPipeline
            wrapper(unet=unet, scheduler=scheduler).save_pretrained(folder)
            seed = 100 + number
            if kind == "DDPMScheduler":
                x = by_pipeline(folder, steps, seed, COUNT, {})
            elif kind == "DDIMScheduler" and scheduler.config.set_alpha_to_one:
                x = by_pipeline(folder, steps, seed, COUNT, {"eta": arguments.get("eta", 0.0)})
            else:
                x = trajectory(unet, scheduler, steps, seed, arguments)
            np.save(folder / "samples.npy", x.clamp(-1, 1).float().numpy())
            settings = {**settings, **arguments}
            cases.append(
                dict(folder=folder.name, scheduler=kind, settings=settings, steps=steps, seed=seed, count=COUNT)
                | ({"eta": arguments["eta"]} if "eta" in arguments else {})
            )
    (root / "cases.json").write_text(json.dumps(dict(cases=cases), indent=1))


def autoencoder(folder):
    torch.manual_seed(3)
    theirs = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        norm_num_groups=8,
        sample_size=16,
    )
    theirs.save_pretrained(folder / "theirs")
    np.save(folder / "x.npy", (2 * torch.rand(3, 3, 16, 16) - 1).numpy())
    ours = AutoencoderKL.from_pretrained(folder / "ours")
    for model, given, out in [(theirs, "x", "theirs"), (ours, "gray", "ours")]:
        with torch.no_grad():
            z = model.eval().encode(torch.from_numpy(np.load(folder / f"{given}.npy"))).latent_dist.mean
            np.save(folder / f"{out}.npy", model.decode(z).sample.numpy())


def main():
    # One thread: sums in another order are another rounding.
    torch.set_num_threads(1)
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    elif sys.argv[1] == "autoencoder":
        autoencoder(Path(sys.argv[2]))
    else:
        snapshot, seed, count, steps, out = sys.argv[2:]
        x = by_pipeline(snapshot, int(steps), int(seed), int(count), {})
        np.save(out, x.clamp(-1, 1).float().numpy())
    print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")


main()

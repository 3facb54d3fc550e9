"""The other side of latent_peer.rs: latent pipelines of diffusers and transformers themselves, on the CPU.

  make FOLDER SEED                  writes a pipeline of random networks of each class, and the images that they draw:
                                    cases.json says what is where, and which arguments of `sample` say the same
  open SNAPSHOT NOISE CASES OUT     draws from a snapshot of ours, from the noise in a file; CASES is JSON, a list of the
                                    arguments of calls, whose images go into OUT one after the other
"""

import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel, VQModel
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as img2img
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from diffusers.pipelines.dit import pipeline_dit as dit
from diffusers.pipelines.deprecated.latent_diffusion_uncond import pipeline_latent_diffusion_uncond as ldm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WORDS = ["red", "circle", "large", "cat", "the"]
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
PROMPTS = ["a large red circle", "the cat, 3 of 7"]


def tokenizer(folder, length, pad):
    """A vocabulary of all bytes and a few words, in the files that transformers reads and writes."""
    letters = [chr(c) for c in range(33, 127)] + [chr(c) for c in (*range(161, 173), *range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    symbols = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            if parts[0] not in symbols:
                symbols.append(parts[0])
    merges = list(dict.fromkeys(merges))
    vocabulary = {symbol: number for number, symbol in enumerate(symbols + SPECIAL)}
    made = CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=length)
    made.save_pretrained(folder)
    return made


def shaken(module, by):
    """Moves every weight, since some of a new network are zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=by)
    return module.eval()


def text_encoder(words, width, layers, act, projection=None):
    kind = CLIPTextModel if projection is None else CLIPTextModelWithProjection
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        hidden_act=act,
        projection_dim=projection or 8,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return shaken(kind(config), 0.15)


def lively(stage, channels, side):
    """A decoder whose images fill about half of the range, and an encoder that leaves nothing open."""
    with torch.no_grad():
        scale = stage.config.scaling_factor
        spread = stage.decode(torch.randn(2, channels, side, side) / scale).sample.std()
        stage.decoder.conv_out.weight.mul_(0.5 / spread)
        stage.decoder.conv_out.bias.zero_()
        if isinstance(stage, AutoencoderKL):
            stage.quant_conv.weight[channels:] = 0
            stage.quant_conv.bias[channels:] = -30
    return stage


def autoencoder(blocks, channels, side, **more):
    config = dict(
        block_out_channels=blocks,
        down_block_types=("DownEncoderBlock2D",) * len(blocks),
        up_block_types=("UpDecoderBlock2D",) * len(blocks),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=side << (len(blocks) - 1),
        **more,
    )
    return lively(shaken(AutoencoderKL(**config), 0.05), channels, side)


def unet(side, blocks, transformers_at, width, inputs=4, outputs=4, **more):
    """A network with cross-attention at some of its levels."""
    down = tuple("CrossAttnDownBlock2D" if at else "DownBlock2D" for at in transformers_at)
    up = tuple("CrossAttnUpBlock2D" if at else "UpBlock2D" for at in reversed(transformers_at))
    network = UNet2DConditionModel(
        sample_size=side,
        in_channels=inputs,
        out_channels=outputs,
        block_out_channels=blocks,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=width,
        norm_num_groups=4,
        **more,
    )
    return shaken(network, 0.04)


class Case:
    """The noise that all draws of a pipeline are replaced by, and what is written down."""

    def __init__(self, root, name, shape):
        self.folder, self.name, self.cases = root / name, name, []
        self.noise = torch.randn(2, *shape)

    def save(self, pipeline):
        pipeline.save_pretrained(self.folder)
        np.save(self.folder / "noise.npy", self.noise.numpy())

    def add(self, pipeline, words, steps, wrap=None, **call):
        """One call, and the words of `sample` that say the same."""
        pipeline.set_progress_bar_config(disable=True)
        if wrap is not None:
            wrap.randn_tensor = lambda *shape, **more: self.noise.clone()
        else:
            call["latents"] = self.noise.clone()
        images = pipeline(num_inference_steps=steps, output_type="np", **call).images
        file = f"out-{len(self.cases)}.npy"
        np.save(self.folder / file, np.asarray(images).transpose(0, 3, 1, 2) * 2 - 1)
        words = ["--steps", str(steps), "--count", "2", "--batch-size", "2", *words]
        self.cases.append(dict(folder=self.name, out=file, words=words))
        return self

    def with_scheduler(self, pipeline, name, scheduler, words, steps, **call):
        """The same networks in a folder of their own, whose scheduler is another."""
        other = Case(self.folder.parent, f"{self.name}-{name}", self.noise.shape[1:])
        pipeline.scheduler = scheduler
        other.save(pipeline)
        other.add(pipeline, words, steps, **call)
        self.cases += other.cases


def prompts(scale, *more):
    return [word for prompt in PROMPTS for word in ("--prompt", prompt)] + ["--guidance", str(scale), *more]


def parts(text, words):
    return dict(text_encoder=text, tokenizer=words, safety_checker=None, feature_extractor=None)


def pictures(root, side):
    """An image of ours and a mask, as both sides read them."""
    from PIL import Image

    rows = np.linspace(0, 255, side)[:, None, None]
    image = (rows * np.array([1.0, 0.5, 0.2]) + np.arange(side)[None, :, None] * 3) % 256
    image = Image.fromarray(image.astype(np.uint8))
    image.save(root / "given.png")
    mask = np.zeros((side, side), np.uint8)
    mask[:, : side // 2] = 255
    mask = Image.fromarray(mask)
    mask.save(root / "mask.png")
    return image, mask


def stable_diffusion(root):
    """1.x: convolutions around transformers, quick GELU; with image-to-image and inpainting of the same networks."""
    case = Case(root, "sd1", (4, 12, 8))
    words = tokenizer(root / "words", 20, "<|endoftext|>")
    network = unet((12, 8), (16, 24, 24), (True, False, True), 20, layers_per_block=2, attention_head_dim=4)
    stage = autoencoder((8, 16), 4, 12)
    scheduler = diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    text = text_encoder(words, 20, 3, "quick_gelu")
    pipeline = diffusers.StableDiffusionPipeline(
        unet=network, vae=stage, scheduler=scheduler, requires_safety_checker=False, **parts(text, words)
    )
    case.save(pipeline)
    size = dict(height=24, width=16)
    case.add(pipeline, prompts(7.5), 6, prompt=PROMPTS, guidance_scale=7.5, **size)
    case.add(pipeline, prompts(1), 5, prompt=PROMPTS, guidance_scale=1.0, **size)
    negative = dict(negative_prompt=["red"] * 2, guidance_scale=4.0, guidance_rescale=0.6)
    extra = ["--negative", "red", "--guidance-rescale", "0.6"]
    case.add(pipeline, prompts(4, *extra), 6, prompt=PROMPTS, **negative, **size)
    stage.enable_tiling()
    stage.tile_sample_min_size, stage.tile_latent_min_size = 16, 8
    case.add(pipeline, prompts(3, "--tile", "16"), 5, prompt=PROMPTS, guidance_scale=3.0, **size)
    stage.disable_tiling()
    euler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    call = dict(prompt=PROMPTS, guidance_scale=5.0)
    case.with_scheduler(pipeline, "euler", euler, prompts(5), 7, **call, **size)
    solver = diffusers.DPMSolverMultistepScheduler(**BETAS, use_karras_sigmas=True)
    case.with_scheduler(pipeline, "dpm", solver, prompts(5), 7, **call, **size)

    network = unet(12, (16, 24), (True, True), 20, attention_head_dim=4, layers_per_block=1)
    square = Case(root, "sd1-square", (4, 12, 12))
    ddim = diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    image, mask = pictures(root, 24)
    common = dict(unet=network, vae=stage, scheduler=ddim, requires_safety_checker=False, **parts(text, words))
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**common)
    square.save(pipeline)
    given = ["--from-image", "given.png", "--strength", "0.6"]
    call = dict(prompt=PROMPTS, guidance_scale=3.0)
    square.add(pipeline, prompts(3, *given), 9, img2img, image=[image] * 2, strength=0.6, **call)
    pipeline = diffusers.StableDiffusionInpaintPipeline(**common)
    painted = Case(root, "sd1-inpaint", (4, 12, 12))
    painted.save(pipeline)
    given = ["--inpaint", "given.png", "--mask", "left"]
    whole = dict(strength=1.0, height=24, width=24)
    painted.add(pipeline, prompts(3, *given), 8, inpaint, image=[image] * 2, mask_image=[mask] * 2, **whole, **call)

    network = unet(12, (16, 24), (True, True), 20, inputs=9, attention_head_dim=4, layers_per_block=1)
    nine = Case(root, "sd1-nine", (4, 12, 12))
    pipeline = diffusers.StableDiffusionInpaintPipeline(**{**common, "unet": network})
    nine.save(pipeline)
    nine.add(pipeline, prompts(3, *given), 8, inpaint, image=[image] * 2, mask_image=[mask] * 2, **whole, **call)
    return case.cases + square.cases + painted.cases + nine.cases


def stable_diffusion_2(root):
    """2.x: linear projections, heads by level, exact GELU, padding by "!", v."""
    case = Case(root, "sd2", (4, 8, 8))
    words = tokenizer(root / "words2", 24, "!")
    network = unet(8, (16, 32), (True, True), 24, attention_head_dim=(2, 4), use_linear_projection=True, layers_per_block=1)
    stage = autoencoder((8, 8, 16), 4, 8)
    scheduler = diffusers.DDIMScheduler(
        **BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    text = text_encoder(words, 24, 4, "gelu")
    pipeline = diffusers.StableDiffusionPipeline(
        unet=network, vae=stage, scheduler=scheduler, requires_safety_checker=False, **parts(text, words)
    )
    case.save(pipeline)
    case.add(pipeline, prompts(6), 8, prompt=PROMPTS, guidance_scale=6.0)
    return case.cases


def stable_diffusion_xl(root):
    case = Case(root, "xl", (4, 8, 8))
    words, second_words = tokenizer(root / "words3", 16, "<|endoftext|>"), tokenizer(root / "words4", 16, "!")
    text, second = text_encoder(words, 12, 3, "quick_gelu"), text_encoder(second_words, 20, 4, "gelu", 10)
    network = unet(
        8,
        (8, 16, 16),
        (False, True, True),
        32,
        attention_head_dim=(2, 2, 4),
        transformer_layers_per_block=(1, 2, 3),
        layers_per_block=1,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 10,
    )
    stage = autoencoder((8, 16), 4, 8, scaling_factor=0.13025, force_upcast=False)
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    pipeline = diffusers.StableDiffusionXLPipeline(
        unet=network,
        vae=stage,
        scheduler=scheduler,
        text_encoder=text,
        text_encoder_2=second,
        tokenizer=words,
        tokenizer_2=second_words,
        add_watermarker=False,
    )
    case.save(pipeline)
    case.add(pipeline, prompts(5), 7, prompt=PROMPTS, guidance_scale=5.0)
    negative = dict(prompt=PROMPTS, negative_prompt=["red"] * 2, guidance_scale=3.0)
    case.add(pipeline, prompts(3, "--negative", "red"), 5, **negative)
    return case.cases


def transformer(root):
    case = Case(root, "dit", (4, 8, 8))
    network = DiTTransformer2DModel(
        sample_size=8,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=10,
        in_channels=4,
        out_channels=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    stage = autoencoder((8, 16), 4, 8)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    pipeline = diffusers.DiTPipeline(transformer=shaken(network, 0.06), vae=stage, scheduler=scheduler)
    case.save(pipeline)
    for scale in (1.0, 4.0):
        words = ["--class", "207", "--guidance", str(scale)]
        case.add(pipeline, words, 6, dit, class_labels=[207, 207], guidance_scale=scale)
    return case.cases


def with_codebook(root):
    case = Case(root, "ldm", (3, 8, 8))
    network = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    stage = VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=3,
        num_vq_embeddings=24,
        sample_size=16,
        scaling_factor=0.4,
    )
    stage = lively(shaken(stage, 0.05), 3, 8)
    with torch.no_grad():
        stage.quantize.embedding.weight.mul_(30)
    scheduler = diffusers.DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
    pipeline = diffusers.LDMPipeline(vqvae=lively(stage, 3, 8), unet=shaken(network, 0.05), scheduler=scheduler)
    case.save(pipeline)
    case.add(pipeline, [], 8, ldm, batch_size=2)
    return case.cases


def make(root, seed):
    torch.manual_seed(seed)
    kinds = [stable_diffusion, stable_diffusion_2, stable_diffusion_xl, transformer, with_codebook]
    with torch.no_grad():
        cases = [case for kind in kinds for case in kind(root)]
    (root / "cases.json").write_text(json.dumps(dict(cases=cases), indent=1))


def draw(snapshot, noise, cases, out):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(snapshot)
    pipeline.set_progress_bar_config(disable=True)
    noise, images = torch.from_numpy(np.load(noise)), []
    for call in json.loads(cases):
        with torch.no_grad():
            # The noise of the steps is that of seed 0.
            generator = torch.Generator().manual_seed(0)
            found = pipeline(**call, latents=noise.clone(), generator=generator, output_type="np").images
        images.append(np.asarray(found).transpose(0, 3, 1, 2) * 2 - 1)
    np.save(out, np.concatenate(images).astype(np.float32))


def main():
    # One thread: sums in another order are another rounding.
    torch.set_num_threads(1)
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        draw(*sys.argv[2:])
    print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")


main()

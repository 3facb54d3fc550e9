"""The other side of fine_tune_pipeline.rs: diffusers with peft, on the CPU.

  BASE SNAPSHOT FOLDER   applies a U-Net to x.npy and tokens.npy in FOLDER: that of the pipeline BASE as it is (without.npy),
                         with the LoRA in SNAPSHOT (by_lora.npy), and that of SNAPSHOT itself (by_snapshot.npy)
"""

import sys
from pathlib import Path

import diffusers
import numpy as np
import peft
import torch
from diffusers import StableDiffusionPipeline

base, snapshot, folder = map(Path, sys.argv[1:])
x, tokens = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("x", "tokens"))
times = torch.tensor([10, 800])


def save(pipeline, name):
    with torch.no_grad():
        output = pipeline.unet(x, times, encoder_hidden_states=tokens).sample
    np.save(folder / name, output.numpy())


pipeline = StableDiffusionPipeline.from_pretrained(base)
save(pipeline, "without.npy")
pipeline.load_lora_weights(snapshot)
config = next(iter(pipeline.unet.peft_config.values()))
assert (config.r, config.lora_alpha) == (3, 6), config
save(pipeline, "by_lora.npy")
save(StableDiffusionPipeline.from_pretrained(snapshot), "by_snapshot.npy")
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}, torch {torch.__version__}")

//! Trains a network of your own, which the library does not know, and samples it with two samplers.
//!
//! `cargo run -p ddpm-train --example own_network -- FOLDER [STEPS]`

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor};
use ddpm_infer::Pipeline;
use ddpm_train::prelude::*;
use serde::{Deserialize, Serialize};

/// Three convolutions, the second of which depends on time and class.
#[derive(Module, Debug)]
pub struct Convolutions {
    first: Conv2d,
    time: Linear,
    classes: Option<Embedding>,
    second: Conv2d,
    last: Conv2d,
}

/// Its own keys in `[model]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    width: usize,
}

impl CustomNetwork for Convolutions {
    const KIND: &'static str = "convolutions";
    type Config = Keys;

    fn new(&Keys { width }: &Keys, io: &Io, device: &Device) -> Self {
        let conv = |channels| {
            Conv2dConfig::new(channels, [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
        };
        Self {
            first: conv([io.in_channels, width]),
            time: LinearConfig::new(width, width).init(device),
            classes: (io.classes > 0).then(|| EmbeddingConfig::new(io.class_rows(), width).init(device)),
            second: conv([width, width]),
            last: conv([width, io.out_channels]),
        }
    }

    fn forward(&self, x_t: Tensor<4>, t: Tensor<1>, classes: Option<Tensor<1, Int>>) -> Tensor<4> {
        let width = self.time.weight.dims()[0];
        let mut condition = self.time.forward(SinusoidConfig::ho().embed(t, width));
        if let (Some(table), Some(classes)) = (&self.classes, classes) {
            condition = condition + table.weight.val().select(0, classes);
        }
        let h = silu(self.first.forward(x_t));
        let h = silu(self.second.forward(h.clone() + condition.unsqueeze_dims(&[2, 3])) + h);
        self.last.forward(h)
    }
}

/// Any other experiment will do: other data, targets, schedules or paths, losses, optimisers.
const EXPERIMENT: &str = r#"
data.kind = "digits"
model = { kind = "convolutions", width = 16, classes = "data" }
diffusion.prediction = "v"
train = { steps = 2000, batch_size = 16 }
preview = { count = 8, steps = 10 }
"#;

// Where another file includes this one, nothing calls it.
#[allow(dead_code)]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(folder) = arguments.first() else { anyhow::bail!("expected a folder for the run and its samples") };
    let steps = arguments.get(1).map_or(Ok(2000), |steps| steps.parse())?;
    println!("{}", run(Path::new(folder), steps)?.display());
    Ok(())
}

/// Trains in `folder`, writes `ddim.png` and `unipc.png` there, and gives the folder of the run.
pub fn run(folder: &Path, steps: u64) -> anyhow::Result<PathBuf> {
    let trainer = Trainer::of_toml("own-network", EXPERIMENT).network::<Convolutions>();
    let finish = trainer.set(format!("train.steps = {steps}")).runs(folder).run()?;
    let Finish::Done(run) = finish else { anyhow::bail!("the training was stopped") };

    // The newest snapshot of the run; a guidance scale needs the classes.
    let mut pipeline = Pipeline::open(&run)?.seed(7).steps(10).guidance_scale(1.5);
    for sampler in ["ddim", "unipc"] {
        pipeline = pipeline.sampler(sampler);
        pipeline.sample(4)?.save_png(folder.join(format!("{sampler}.png")))?;
    }
    Ok(run)
}

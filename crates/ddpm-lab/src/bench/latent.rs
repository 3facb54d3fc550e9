//! The networks of latent diffusion: a training step and a forward pass of a U-Net with cross-attention and of a diffusion
//! transformer, and a denoising step of a network of the size of Stable Diffusion 1.5, next to diffusers and PyTorch.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::ensure;
use ddpm_model::dit::DiTConfig;
use ddpm_model::embedding::SinusoidConfig;
use ddpm_model::network::NetworkConfig;
use ddpm_model::unet::{CrossAttentionConfig, DownsamplePadding, Heads, UNetConfig};
use serde::Serialize;

use super::process::{Answer, Hello, Side, in_turns};
use super::table::times_cell;
use super::{BenchArgs, TURN, computing, this_program, threads};
use ddpm_console::output::print;

/// The networks in PyTorch, which run as `python -c`.
const PEER: &str = include_str!("peer_latent.py");

/// A network of latent diffusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Latent {
    /// A U-Net with cross-attention, of 23 million parameters.
    UNet,
    /// A diffusion transformer that attends to tokens, of 25 million.
    DiT,
    /// The U-Net of Stable Diffusion 1.5: forward only.
    Sd15,
}

impl Latent {
    const ALL: [Self; 3] = [Self::UNet, Self::DiT, Self::Sd15];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::UNet => "unet",
            Self::DiT => "dit",
            Self::Sd15 => "sd15",
        }
    }

    /// Whether it is trained, too.
    pub(super) fn trains(self) -> bool {
        self != Self::Sd15
    }

    /// `[batch, channels, height, width]`.
    pub(super) fn dims(self) -> [usize; 4] {
        match self {
            Self::UNet | Self::DiT => [8, 4, 16, 16],
            Self::Sd15 => [1, 4, 64, 64],
        }
    }

    /// How many tokens, and their width.
    pub(super) fn tokens(self) -> [usize; 2] {
        match self {
            Self::UNet | Self::DiT => [24, 128],
            Self::Sd15 => [77, 768],
        }
    }

    pub(super) fn network(self) -> NetworkConfig {
        let [_, token_width] = self.tokens();
        let unet = UNetConfig {
            heads: Heads::Count(8),
            norm_eps: 1e-5,
            dropout: 0.0,
            downsample_padding: DownsamplePadding::Symmetric,
            embedding: SinusoidConfig::improved(),
            cross_attention: Some(CrossAttentionConfig { token_width, ..CrossAttentionConfig::default() }),
            ..UNetConfig::default()
        };
        let network = match self {
            Self::UNet => NetworkConfig::UNet(UNetConfig {
                base_channels: 96,
                multipliers: vec![1.0, 2.0, 2.0],
                attention_resolutions: vec![16, 8, 4],
                heads: Heads::Width { width: 32 },
                ..unet
            }),
            Self::DiT => NetworkConfig::DiT(DiTConfig { depth: 8, token_width, ..DiTConfig::default() }),
            Self::Sd15 => NetworkConfig::UNet(UNetConfig {
                base_channels: 320,
                multipliers: vec![1.0, 2.0, 4.0, 4.0],
                attention_resolutions: vec![64, 32, 16],
                ..unet
            }),
        };
        let [_, channels, height, width] = self.dims();
        network.with_io(&[channels, height, width], channels)
    }
}

impl FromStr for Latent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|latent| latent.name() == text);
        found.ok_or_else(|| format!("{text:?} given, expected unet, dit or sd15"))
    }
}

/// All that was measured of one side, in seconds.
#[derive(Clone, Debug, Default, Serialize)]
struct Measured {
    name: String,
    forward: Vec<f64>,
    forward_cpu: Vec<f64>,
    forward_peak_mib: f64,
    train: Vec<f64>,
    train_cpu: Vec<f64>,
    train_peak_mib: f64,
}

/// All that was measured of one network; ours first.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    latent: Latent,
    parameters: usize,
    sides: Vec<Measured>,
}

/// Measures and prints a table for each network.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<Vec<Comparison>> {
    ensure!(args.rounds > 0, "--rounds must be at least 1, not 0");
    let mut comparisons = Vec::new();
    for &latent in &args.latent {
        let (comparison, profile) = compare(args, latent)?;
        print(&format!("{}\n{}", text(&comparison, threads(args)), text_of_profile(&profile)))?;
        comparisons.push(comparison);
    }
    Ok(comparisons)
}

fn compare(args: &BenchArgs, latent: Latent) -> anyhow::Result<(Comparison, Answer)> {
    let mut commands = vec![ours(args, latent)?];
    for words in peers(args, latent) {
        commands.extend(args.peer.iter().map(|python| theirs(args, python, latent, &words)));
    }
    let named = |Hello { name, .. }| Measured { name, ..Measured::default() };
    let sides = commands.iter_mut().map(|command| Side::start(command, named));
    let mut sides = sides.collect::<Result<Vec<_>, _>>()?;
    let counts: Vec<usize> = sides.iter().map(|side| side.process.hello.parameters).collect();
    ensure!(counts.iter().all(|count| *count == counts[0]), "parameters differ, {counts:?}: not the same network");
    in_turns(args.rounds, &mut sides, &format!("forward {TURN}"), |side, answer| {
        side.forward.extend(answer.seconds);
        side.forward_cpu.extend(answer.cpu_seconds);
    })?;
    in_turns(1, &mut sides, "memory", |side, answer| side.forward_peak_mib = answer.peak_mib)?;
    if latent.trains() {
        in_turns(args.rounds, &mut sides, &format!("train {TURN}"), |side, answer| {
            side.train.extend(answer.seconds);
            side.train_cpu.extend(answer.cpu_seconds);
        })?;
        in_turns(1, &mut sides, "memory", |side, answer| side.train_peak_mib = answer.peak_mib)?;
    }
    let profile = match args.profile {
        true => sides[0].process.ask(&format!("profile {}", args.rounds))?,
        false => Answer::default(),
    };
    let sides = sides.into_iter().map(|side| side.measured).collect();
    Ok((Comparison { latent, parameters: counts[0], sides }, profile))
}

fn ours(args: &BenchArgs, latent: Latent) -> anyhow::Result<Command> {
    let mut command = this_program(args)?;
    command.args(["--worker", "--latent", latent.name()]).args(computing(args));
    Ok(command)
}

/// The ways in which PyTorch does the work, as words of its command.
fn peers(args: &BenchArgs, latent: Latent) -> Vec<Vec<&'static str>> {
    let mut ways = vec![vec![]];
    if args.bf16 {
        ways.push(vec!["--bf16"]);
    }
    // Of the largest network more would not fit into memory at once.
    if args.compile && latent.trains() {
        let convolves = latent != Latent::DiT;
        let faster = [vec!["--channels-last"], vec!["--compile"]].into_iter().skip(usize::from(!convolves));
        let faster: Vec<_> =
            faster.flat_map(|way| ways.iter().map(move |words| [&words[..], &way[..]].concat())).collect();
        ways.extend(faster);
    }
    ways
}

fn theirs(args: &BenchArgs, python: &Path, latent: Latent, words: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg("-c").arg(PEER).args(["--latent", latent.name(), "--threads", &threads(args).to_string()]).args(words);
    command
}

fn text(comparison: &Comparison, threads: usize) -> String {
    let Comparison { latent, parameters, sides } = comparison;
    let ([batch, channels, height, width], [tokens, token_width]) = (latent.dims(), latent.tokens());
    let mut text = format!(
        "{} of {parameters} parameters, {batch} x {channels}x{height}x{width} with {tokens} tokens of width {token_width}, \
         {threads} threads; medians, with the fastest in brackets, and how many times as fast ours is\n\n",
        latent.name()
    );
    let mut row = |name: &str, cell: &dyn Fn(&Measured) -> String| {
        let cells: Vec<String> = sides.iter().map(|side| format!("{:>36}", cell(side))).collect();
        let _ = writeln!(text, "{name:<24}{}", cells.concat());
    };
    row("", &|side| side.name.clone());
    row("forward", &|side| times_cell(&sides[0].forward, &side.forward));
    row("forward, CPU time", &|side| times_cell(&sides[0].forward_cpu, &side.forward_cpu));
    row("peak memory, forward", &|side| format!("{:.0} MiB", side.forward_peak_mib));
    if latent.trains() {
        row("training step", &|side| times_cell(&sides[0].train, &side.train));
        row("training, CPU time", &|side| times_cell(&sides[0].train_cpu, &side.train_cpu));
        row("peak memory, training", &|side| format!("{:.0} MiB", side.train_peak_mib));
    }
    text
}

/// Where the time of ours goes; nothing where it was not measured.
fn text_of_profile(profile: &Answer) -> String {
    let mut text = String::new();
    for operation in &profile.operations {
        let _ =
            writeln!(text, "{:<50}{:>8.1} calls{:>10.2} ms", operation.name, operation.calls, operation.milliseconds);
    }
    if !profile.operations.is_empty() {
        let _ = writeln!(text, "all of it: {:.1} ms", profile.step_ms);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_by_name_and_can_be_built() {
        for latent in Latent::ALL {
            assert_eq!(latent.name().parse(), Ok(latent));
            let [_, channels, height, width] = latent.dims();
            latent.network().validate(&[channels, height, width]).unwrap();
        }
        let error = "sd21".parse::<Latent>().unwrap_err();
        assert!(error.contains("sd21") && error.contains("sd15"), "{error}");
    }

    #[test]
    fn a_table_has_ratios_of_medians() {
        let side = |name: &str, time: f64| Measured {
            name: name.into(),
            forward: vec![time, 2.0 * time, 9.0 * time],
            train: vec![time],
            ..Measured::default()
        };
        let sides = vec![side("ours", 0.01), side("theirs", 0.03)];
        let text = text(&Comparison { latent: Latent::DiT, parameters: 5, sides }, 2);
        let forward = text.lines().find(|line| line.starts_with("forward ")).unwrap();
        assert!(forward.contains("20.0 ms (10.0)") && forward.contains("60.0 ms (30.0), 3.00 times"), "{text}");
        assert!(text.contains("training step") && text.contains("8 x 4x16x16 with 24 tokens of width 128"), "{text}");
    }
}

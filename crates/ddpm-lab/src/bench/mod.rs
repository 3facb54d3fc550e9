//! `ddpm-lab bench`: how fast this is, and how fast PyTorch is at the same work in the same run.

mod flops;
mod latent;
mod latent_worker;
mod network;
mod process;
mod series;
mod series_worker;
mod table;
mod worker;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use ddpm_device::device;
use ddpm_kernels::Precision;
use network::Work;
use process::{Answer, Hello, Operation, Side, answer_of, in_turns};
use serde::Serialize;

use ddpm_console::output::{print, print_path};

/// The network in PyTorch, which runs as `python -c`.
const PEER: &str = include_str!("peer.py");
/// Forward passes or training steps of one side before it is the other's turn.
const TURN: usize = 2;
/// Products that the machine is measured by.
const PRODUCTS: usize = 8;
/// Batches that are loaded in a row.
const LOADS: usize = 64;

/// The arguments of `ddpm-lab bench`.
#[derive(clap::Args, Debug)]
pub struct BenchArgs {
    /// A Python with PyTorch, which does the same work in turns; with diffusers too, its start is measured as well.
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// What the network of ours computes in.
    #[arg(long, value_name = "f32|bf16|f16", default_value = "f32")]
    precision: Precision,
    /// PyTorch also in bfloat16 (autocast).
    #[arg(long, requires = "peer")]
    bf16: bool,
    /// PyTorch also compiled; networks of latent diffusion also with channels last.
    #[arg(long, requires = "peer")]
    compile: bool,
    /// PyTorch also with channels innermost in memory.
    #[arg(long, requires = "peer")]
    channels_last: bool,
    /// The U-Net of this experiment in its own batches, in place of the one of Ho et al. for CIFAR-10: the name of a recipe,
    /// such as digits, or a file.
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["channels", "batch", "size"])]
    experiment: Option<String>,
    /// Channels of the first level of the network; several make several tables.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64")]
    channels: Vec<usize>,
    /// Pictures in a batch.
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Height and width of a picture.
    #[arg(long, value_name = "PIXELS", default_value_t = 32)]
    size: usize,
    /// Turns of each side.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Steps of sampling; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 50)]
    steps: usize,
    /// Threads of both sides; as many as there are cores if it is not given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where ours computes.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Ours trains as with train.gradient_checkpointing.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Shows which operations a training step of ours spends its time in.
    #[arg(long)]
    profile: bool,
    /// Writes everything that was measured here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Networks for time series in place of the U-Net, with the number of their variables or the length of their series:
    /// csdi:4,csdi:35,sssd:248,timegrad:4.
    #[arg(long, value_name = "NAME:N", value_delimiter = ',')]
    series: Vec<series::Series>,
    /// Networks of latent diffusion in place of the U-Net: unet, dit (forward and training), sd15 (a denoising step of the size
    /// of Stable Diffusion 1.5).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    latent: Vec<latent::Latent>,
    /// Lengths of series that SSSD is trained on in place of the U-Net, ours only: 256,1024,4096.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    lengths: Vec<usize>,
    /// Answers commands on stdin: this process is the one that is measured.
    #[arg(long, hide = true)]
    worker: bool,
    /// Opens a snapshot and takes one denoising step.
    #[arg(long, hide = true, value_name = "SNAPSHOT")]
    start: Option<PathBuf>,
}

/// Size of the work.
#[derive(Clone, Copy, Debug, Serialize)]
struct Shape {
    channels: usize,
    batch: usize,
    size: usize,
}

/// All that was measured of one side; times in seconds, every one that was taken.
#[derive(Clone, Debug, Default, Serialize)]
struct Measured {
    name: String,
    threads: usize,
    forward: Vec<f64>,
    train: Vec<f64>,
    sample: Vec<f64>,
    load: Vec<f64>,
    start: Vec<f64>,
    multiply: Vec<f64>,
    /// Of the processor, on all cores together.
    forward_cpu: Vec<f64>,
    train_cpu: Vec<f64>,
    forward_peak_mib: f64,
    train_peak_mib: f64,
}

/// All that was measured of one network.
#[derive(Clone, Debug, Serialize)]
struct Comparison {
    shape: Shape,
    parameters: usize,
    steps: usize,
    /// Operations of a forward pass of the batch.
    forward_flops: f64,
    /// Ours first.
    sides: Vec<Measured>,
    step_ms: f64,
    operations: Vec<Operation>,
}

/// Measures and prints tables.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    if args.worker || args.start.is_some() {
        let open = device::open(args.device.as_deref())?;
        open.check(args.precision)?;
        if let (Some(&series), true) = (args.series.first(), args.worker) {
            return series_worker::run(series, &open.device);
        }
        if let (Some(&latent), true) = (args.latent.first(), args.worker) {
            return latent_worker::run(latent, &open.device, args.gradient_checkpointing, args.precision);
        }
        return match &args.start {
            Some(snapshot) => worker::start(snapshot, &open.device),
            None => worker::run(&network::all(args)?[0], &open.device, args.gradient_checkpointing, args.precision),
        };
    }
    if !args.series.is_empty() || !args.lengths.is_empty() {
        return report(args, &serde_json::to_value(series::run(args)?)?);
    }
    if !args.latent.is_empty() {
        return report(args, &serde_json::to_value(latent::run(args)?)?);
    }
    ensure!(args.rounds > 0, "--rounds must be at least 1, not 0");
    ensure!(args.batch > 0, "--batch must be at least 1, not 0");
    let mut comparisons = Vec::new();
    for work in network::all(args)? {
        let comparison = compare(args, &work)?;
        print(&format!("{}\n", table::text(&comparison)))?;
        comparisons.push(comparison);
    }
    report(args, &serde_json::to_value(comparisons)?)
}

/// Writes what was measured, if a file is wanted.
fn report(args: &BenchArgs, comparisons: &serde_json::Value) -> anyhow::Result<()> {
    let Some(file) = &args.json else { return Ok(()) };
    let report = serde_json::json!({
        "command": std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "),
        "processor": processor(),
        "comparisons": comparisons,
    });
    let text = serde_json::to_string_pretty(&report)?;
    ddpm_files::atomic::write(file, text)?;
    print_path(file)
}

fn compare(args: &BenchArgs, work: &Work) -> anyhow::Result<Comparison> {
    let mut sides = sides(args, work)?;
    let parameters = sides[0].process.hello.parameters;
    for side in &sides {
        let hello = &side.process.hello;
        ensure!(
            hello.parameters == parameters,
            "{} has {} parameters where ours has {parameters}: not the same network",
            hello.name,
            hello.parameters
        );
    }
    in_turns(args.rounds, &mut sides, &format!("multiply {PRODUCTS}"), |side, answer| {
        side.multiply.extend(answer.seconds)
    })?;
    in_turns(args.rounds, &mut sides, &format!("forward {TURN}"), |side, answer| {
        side.forward.extend(answer.seconds);
        side.forward_cpu.extend(answer.cpu_seconds);
    })?;
    for side in &mut sides {
        side.measured.forward_peak_mib = side.process.ask("memory")?.peak_mib;
    }
    in_turns(args.rounds, &mut sides, &format!("train {TURN}"), |side, answer| {
        side.train.extend(answer.seconds);
        side.train_cpu.extend(answer.cpu_seconds);
    })?;
    for side in &mut sides {
        side.measured.train_peak_mib = side.process.ask("memory")?.peak_mib;
    }
    if args.steps > 0 {
        in_turns(1, &mut sides, &format!("sample {}", args.steps), |side, answer| side.sample.extend(answer.seconds))?;
    }
    in_turns(1, &mut sides, &format!("load {LOADS}"), |side, answer| side.load.extend(answer.seconds))?;
    let profile = match args.profile {
        true => sides[0].process.ask(&format!("profile {}", 2 * args.rounds))?,
        false => Answer::default(),
    };
    let mut sides: Vec<Measured> = sides.into_iter().map(|side| side.measured).collect();
    measure_start(args, work, &mut sides)?;
    let shape = work.shape;
    Ok(Comparison {
        shape,
        parameters,
        steps: args.steps,
        forward_flops: shape.batch as f64 * flops::forward(&work.network, shape.size),
        sides,
        step_ms: profile.step_ms,
        operations: profile.operations,
    })
}

fn sides(args: &BenchArgs, work: &Work) -> anyhow::Result<Vec<Side<Measured>>> {
    let mut commands = vec![ours(args, work, &["--worker"])?];
    if let Some(python) = &args.peer {
        let mut with = |words: &[&str]| commands.push(peer(args, python, work, words));
        with(&[]);
        if args.channels_last {
            with(&["--channels-last"]);
        }
        if args.bf16 {
            with(&["--bf16"]);
        }
        if args.compile {
            with(&["--compile"]);
        }
        if args.bf16 && args.compile {
            with(&["--bf16", "--compile"]);
        }
    }
    let named = |Hello { name, threads, .. }| Measured { name, threads, ..Measured::default() };
    commands.iter_mut().map(|command| Side::start(command, named)).collect()
}

fn ours(args: &BenchArgs, work: &Work, words: &[&str]) -> anyhow::Result<Command> {
    let mut command = this_program(args)?;
    command.args(words).args(work.arguments(args)).args(computing(args));
    Ok(command)
}

/// This program as the one that is measured: its command, device and threads.
fn this_program(args: &BenchArgs) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program does not know where it is")?);
    command.arg("bench").args(args.device.iter().flat_map(|device| ["--device", device]));
    command.env("RAYON_NUM_THREADS", threads(args).to_string());
    Ok(command)
}

/// The arguments about how a network of diffusion computes.
fn computing(args: &BenchArgs) -> Vec<&'static str> {
    let mut words = vec!["--precision", args.precision.name()];
    words.extend(args.gradient_checkpointing.then_some("--gradient-checkpointing"));
    words
}

fn peer(args: &BenchArgs, python: &Path, work: &Work, words: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg("-c").arg(PEER).args(words).args(work.of_peer()).args(["--threads", &threads(args).to_string()]);
    command
}

fn threads(args: &BenchArgs) -> usize {
    args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// From the start of the program to its first denoising step, of ours and of diffusers.
fn measure_start(args: &BenchArgs, work: &Work, sides: &mut [Measured]) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("ddpm-bench-{}", std::process::id()));
    worker::write_snapshot(work, &device::open(args.device.as_deref())?.device, &folder)?;
    let words = ["--start", &folder.to_string_lossy()];
    let mut commands = vec![ours(args, work, &words)?];
    commands.extend(args.peer.iter().map(|python| peer(args, python, work, &words)));
    for _ in 0..args.rounds.min(3) {
        for (command, side) in commands.iter_mut().zip(&mut *sides) {
            let start = Instant::now();
            let answer = answer_of(command)?;
            match answer.error {
                Some(reason) => ddpm_console::say!("the start of {} is not measured: {reason}", side.name),
                None if answer.done => side.start.push(start.elapsed().as_secs_f64()),
                None => {}
            }
        }
    }
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Model of the processor, where the system tells it in `/proc`.
fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

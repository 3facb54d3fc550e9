//! `cargo xtask`: a thin driver of cargo. It starts the project's programs as processes and knows none of them.

mod invariants;
mod links;
mod one_compile;
mod torch;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const HELP: &str = "\
cargo xtask COMMAND [--release] [--features a,b] [ARGUMENTS]

  train        train a model (ddpm-train; ARGUMENTS as there, see `cargo xtask train --help`)
  report       write one HTML page with the curves, pictures and settings of runs (ddpm-train report RUN...)
  sample       draw samples from the newest run (ddpm-infer sample)
  reconstruct  encode items and decode them again, with an autoencoder (ddpm-infer reconstruct)
  encode       write the latents of items (ddpm-infer encode)
  forecast     forecast what comes after a time series (ddpm-infer forecast --data FILE --horizon H)
  impute       impute what is missing in time series (ddpm-infer impute --data FILE)
  likelihood   measure the log-likelihood of data under the newest run (ddpm-infer likelihood)
  ema          reconstruct a post-hoc EMA of any width (ddpm-infer ema)
  import       convert a checkpoint of another project, of images or of time series, to a snapshot (ddpm-infer import)
  inspect      describe a file or folder of weights, and report what is wrong with it (ddpm-infer inspect)
  eval         evaluate the samples of the newest run, or files (ddpm-infer eval)
  data         list the built-in datasets, or inspect one (ddpm-infer data)
  bench        measure speed and memory, in turns with PyTorch if there is one (ddpm-lab bench --peer PYTHON)
  devices      list the devices there are, and the backends that are compiled in (ddpm-infer devices)
  conformance  check a device's results against the reference backend: --device NAME, --quick (ddpm-lab conformance)
  setup-torch  install PyTorch's LibTorch for the feature tch, in target/torch
  docs         write docs/config.md from the config structs
  test         format, lints, all tests, docs and the architecture's invariants: what a change must pass
  ci           test, conformance of flex, ndarray and wgpu, the kernels for GPUs, and then the slow acceptance suite,
               which trains the digits and the swiss roll and evaluates them

Programs are built as `cargo run` and the tests build them, in the dev profile, which computes as fast as the release
profile and shares its compile with them. --release builds them in the release profile: minutes the first time.
";

/// The exit code of the conformance suite when a device was not there.
const SKIPPED: u8 = 3;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let done = match command.as_str() {
        "train" => start("ddpm-train", &[], &arguments),
        "report" => start("ddpm-train", &["report"], &arguments),
        "sample" => start("ddpm-infer", &["sample"], &arguments),
        "reconstruct" => start("ddpm-infer", &["reconstruct"], &arguments),
        "encode" => start("ddpm-infer", &["encode"], &arguments),
        "forecast" => start("ddpm-infer", &["forecast"], &arguments),
        "impute" => start("ddpm-infer", &["impute"], &arguments),
        "likelihood" => start("ddpm-infer", &["likelihood"], &arguments),
        "ema" => start("ddpm-infer", &["ema"], &arguments),
        "import" => start("ddpm-infer", &["import"], &arguments),
        "inspect" => start("ddpm-infer", &["inspect"], &arguments),
        "eval" => start("ddpm-infer", &["eval"], &arguments),
        "data" => start("ddpm-infer", &["data"], &arguments),
        "bench" => start("ddpm-lab", &["bench"], &arguments),
        "devices" => start("ddpm-infer", &["devices"], &arguments),
        "conformance" => start("ddpm-lab", &["conformance"], &with_features(&arguments)),
        "setup-torch" => torch::set_up(&root()),
        "docs" => docs(),
        "test" => test(),
        "ci" => test()
            .and_then(|()| conformance())
            .and_then(|()| gpu_kernels())
            .and_then(|()| parquet())
            .and_then(|()| acceptance()),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        "" => {
            eprint!("{HELP}");
            Err(2)
        }
        other => {
            let names: Vec<&str> = commands().collect();
            eprintln!("the commands are: {}\n`cargo xtask help` says what they do", names.join(", "));
            eprintln!("error: there is no command `{other}`");
            Err(2)
        }
    };
    done.map_or_else(ExitCode::from, |()| ExitCode::SUCCESS)
}

/// The names of all commands, as the help lists them.
fn commands() -> impl Iterator<Item = &'static str> {
    HELP.lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split(' ').next().filter(|name| !name.is_empty()))
}

/// Builds a program and runs it with the arguments that are not for cargo. Cargo's progress is shown: the first build
/// takes minutes, and another cargo may hold the lock.
fn start(package: &str, leading: &[&str], arguments: &[String]) -> Result<(), u8> {
    let mut cargo = vec!["run".to_string(), "--package".into(), package.into()];
    let mut rest: Vec<String> = leading.iter().map(ToString::to_string).collect();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What older versions called the default.
            "--dev" => {}
            "--features" => {
                let features = arguments.next().ok_or_else(|| {
                    eprintln!("error: --features needs a list, for example --features wgpu");
                    2
                })?;
                cargo.extend(["--features".into(), features.clone()]);
            }
            features if features.starts_with("--features=") => cargo.push(argument.clone()),
            "--release" | "--no-default-features" => cargo.push(argument.clone()),
            _ => rest.push(argument.clone()),
        }
    }
    let chosen: String = cargo[3..].iter().map(|word| format!(" {word}")).collect();
    cargo.push("--".into());
    cargo.extend(rest);
    // In the user's folder, so that relative paths mean what they say; the program repeats how it was started.
    run(cargo_command().args(&cargo).env("DDPM_STARTED_AS", format!("cargo xtask train{chosen}")))
}

/// With the features of the devices that are named, unless features are.
fn with_features(arguments: &[String]) -> Vec<String> {
    let names = arguments.windows(2).filter(|pair| pair[0] == "--device").map(|pair| pair[1].as_str());
    let names = names.chain(arguments.iter().filter_map(|argument| argument.strip_prefix("--device=")));
    let features: Vec<&str> = names.filter_map(|name| name.split(':').next()).filter(|name| *name != "flex").collect();
    let chosen = arguments.iter().any(|argument| argument.starts_with("--features"));
    if chosen || features.is_empty() {
        return arguments.to_vec();
    }
    ["--features".to_string(), features.join(",")].into_iter().chain(arguments.iter().cloned()).collect()
}

/// Everything a change must pass.
fn test() -> Result<(), u8> {
    let root = root();
    step("format", || run(cargo_command().current_dir(&root).args(["fmt", "--all", "--check"])))?;
    step("invariants", || invariants::check(&root))?;
    step("lints", || {
        // The acceptance suite is not among the targets that cargo tests unasked.
        let targets = ["clippy", "--workspace", "--all-targets", "--test", "acceptance"];
        let arguments = targets.into_iter().chain(["--", "--deny", "warnings"]);
        run(cargo_command().current_dir(&root).args(arguments))
    })?;
    step("tests", || run(cargo_command().current_dir(&root).args(["test", "--workspace"])))?;
    step("one compile", || one_compile::check(|| in_root(&root)))?;
    step("docs", || {
        let arguments = ["doc", "--workspace", "--no-deps", "--quiet"];
        run(cargo_command().current_dir(&root).env("RUSTDOCFLAGS", "--deny warnings").args(arguments))
    })
}

/// Writes what the documentation takes from the sources; the test that compares them does it.
fn docs() -> Result<(), u8> {
    let arguments = ["test", "--package", "ddpm-train", "--lib", "config::reference"];
    step("docs/config.md", || run(in_root(&root()).env("DDPM_WRITE_DOCS", "1").args(arguments)))
}

/// Compares the devices that every machine has with flex in f64; software Vulkan only where it is installed.
fn conformance() -> Result<(), u8> {
    eprintln!("xtask: conformance");
    let start = Instant::now();
    let devices = ["flex", "ndarray", "wgpu"].map(|device| ["--device", device]).concat();
    let words = ["run", "--quiet", "--package", "ddpm-lab"];
    let done = run(of_every_machine(&words).args(["--", "conformance", "--quick"]).args(devices));
    let outcome = match done {
        Ok(()) => "passed",
        Err(SKIPPED) => "SKIPPED a device that was not there, and passed on the others",
        Err(_) => "FAILED",
    };
    eprintln!("xtask: conformance {outcome} after {:.0} s", start.elapsed().as_secs_f64());
    done.or_else(|code| if code == SKIPPED { Ok(()) } else { Err(code) })
}

/// Compares the kernels for GPUs with Burn in f64, on what [`conformance`] was compiled for.
fn gpu_kernels() -> Result<(), u8> {
    let words = ["test", "--package", "ddpm-kernels", "--package", "ddpm-lab", "--test", "cube"];
    step("kernels for GPUs", || run(&mut of_every_machine(&words)))
}

/// Cargo with the backends that every machine has, one set of features so that nothing is compiled twice.
fn of_every_machine(words: &[&str]) -> Command {
    let mut command = cargo_command();
    command.current_dir(root()).args(words).args(["--features", "ndarray,wgpu"]);
    // Fewer kernels to compile and to try.
    command.env("CUBECL_AUTOTUNE_LEVEL", "minimal");
    command
}

/// Reads tables in Parquet, which is behind a feature.
fn parquet() -> Result<(), u8> {
    let arguments = ["test", "--package", "ddpm-data", "--features", "parquet", "--test", "it", "--", "parquet"];
    step("tables in Parquet", || run(cargo_command().current_dir(root()).args(arguments)))
}

/// Trains bundled experiments as a user would and evaluates the samples; some twenty minutes.
fn acceptance() -> Result<(), u8> {
    let arguments = ["test", "--workspace", "--test", "acceptance", "--", "--nocapture", "--test-threads=1"];
    step("acceptance", || run(cargo_command().current_dir(root()).args(arguments)))
}

fn step(name: &str, work: impl FnOnce() -> Result<(), u8>) -> Result<(), u8> {
    eprintln!("xtask: {name}");
    let start = Instant::now();
    let done = work();
    let outcome = if done.is_ok() { "passed" } else { "FAILED" };
    eprintln!("xtask: {name} {outcome} after {:.0} s", start.elapsed().as_secs_f64());
    done
}

fn run(command: &mut Command) -> Result<(), u8> {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| Path::new(word).file_name().filter(|_| word == command.get_program()).unwrap_or(word))
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    eprintln!("xtask: {}", words.join(" "));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {} did not start: {error}", words[0]);
            Err(1)
        }
    }
}

fn in_root(root: &Path) -> Command {
    let mut command = cargo_command();
    command.current_dir(root);
    command
}

fn cargo_command() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

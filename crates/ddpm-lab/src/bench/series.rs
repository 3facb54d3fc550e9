//! The networks for time series: a training step of each, and a forecast of TimeGrad, next to the originals' networks in
//! PyTorch; and how a training step of SSSD grows with the length of the series.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::ensure;
use serde::Serialize;

use super::process::{Hello, Side, in_turns};
use super::table::times_cell;
use super::{BenchArgs, TURN, this_program, threads};
use ddpm_console::output::print;

/// The networks in PyTorch, which run as `python -c`.
const PEER: &str = include_str!("peer_series.py");

/// Paths of a forecast.
const PATHS: usize = 100;

/// A network for time series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SeriesNetwork {
    Csdi,
    Sssd,
    TimeGrad,
}

impl SeriesNetwork {
    const ALL: [Self; 3] = [Self::Csdi, Self::Sssd, Self::TimeGrad];

    fn name(self) -> &'static str {
        match self {
            Self::Csdi => "csdi",
            Self::Sssd => "sssd",
            Self::TimeGrad => "timegrad",
        }
    }

    /// What its size counts.
    fn size(self) -> &'static str {
        match self {
            Self::Csdi | Self::TimeGrad => "variables",
            Self::Sssd => "steps",
        }
    }

    /// Series in a batch.
    pub(super) fn batch(self) -> usize {
        match self {
            Self::Csdi => 16,
            Self::Sssd => 8,
            Self::TimeGrad => 64,
        }
    }
}

/// A network of one size: variables of CSDI and TimeGrad, the length of the series of SSSD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Series {
    pub(super) network: SeriesNetwork,
    pub(super) size: usize,
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} given, expected csdi:N, sssd:N or timegrad:N with N of at least 2");
        let (name, size) = text.split_once(':').ok_or_else(expected)?;
        let network = SeriesNetwork::ALL.into_iter().find(|network| network.name() == name).ok_or_else(expected)?;
        let size = size.parse().ok().filter(|size| *size >= 2).ok_or_else(expected)?;
        Ok(Self { network, size })
    }
}

/// All that was measured of one side, in seconds.
#[derive(Clone, Debug, Default, Serialize)]
struct Measured {
    name: String,
    train: Vec<f64>,
    train_cpu: Vec<f64>,
    forecast: Vec<f64>,
    peak_mib: f64,
}

/// All that was measured of one network; ours first.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    series: Series,
    sides: Vec<Measured>,
}

/// Measures and prints a table for each network, and one for all lengths.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<Vec<Comparison>> {
    ensure!(args.rounds > 0, "--rounds must be at least 1, not 0");
    let mut comparisons = Vec::new();
    for &series in &args.series {
        let comparison = compare(args, series, args.peer.as_deref())?;
        print(&format!("{}\n", text(&comparison, threads(args))))?;
        comparisons.push(comparison);
    }
    let mut lengths = Vec::new();
    for &size in &args.lengths {
        lengths.push(compare(args, Series { network: SeriesNetwork::Sssd, size }, None)?);
    }
    if !lengths.is_empty() {
        print(&format!("{}\n", text_of_lengths(&lengths)))?;
    }
    comparisons.extend(lengths);
    Ok(comparisons)
}

fn compare(args: &BenchArgs, series: Series, peer: Option<&Path>) -> anyhow::Result<Comparison> {
    let named = |Hello { name, .. }| Measured { name, ..Measured::default() };
    let mut sides = vec![Side::start(&mut ours(args, series)?, named)?];
    if let Some(python) = peer {
        sides.push(Side::start(&mut theirs(args, python, series), named)?);
        // SSSD's own files have more: nodes of transforms, and constants that PyTorch counts as buffers.
        let counts: Vec<usize> = sides.iter().map(|side| side.process.hello.parameters).collect();
        ensure!(counts[0] == counts[1], "parameters differ, {counts:?}: not the same network");
    }
    in_turns(args.rounds, &mut sides, &format!("train {TURN}"), |side, answer| {
        side.train.extend(answer.seconds);
        side.train_cpu.extend(answer.cpu_seconds);
    })?;
    if series.network == SeriesNetwork::TimeGrad {
        in_turns(1, &mut sides, &format!("forecast {PATHS}"), |side, answer| side.forecast.extend(answer.seconds))?;
    }
    in_turns(1, &mut sides, "memory", |side, answer| side.peak_mib = answer.peak_mib)?;
    Ok(Comparison { series, sides: sides.into_iter().map(|side| side.measured).collect() })
}

fn ours(args: &BenchArgs, series: Series) -> anyhow::Result<Command> {
    let mut command = this_program(args)?;
    let Series { network, size } = series;
    command.args(["--worker", "--series", &format!("{}:{size}", network.name())]);
    Ok(command)
}

fn theirs(args: &BenchArgs, python: &Path, series: Series) -> Command {
    let mut command = Command::new(python);
    let Series { network, size } = series;
    command.arg("-c").arg(PEER).args(["--series", network.name(), "--size", &size.to_string()]);
    command.args(["--batch", &network.batch().to_string(), "--threads", &threads(args).to_string()]);
    command
}

fn text(comparison: &Comparison, threads: usize) -> String {
    let Comparison { series: Series { network, size }, sides } = comparison;
    let (name, batch) = (network.name(), network.batch());
    let mut text = format!(
        "{name} with {size} {}, batches of {batch} series, {threads} threads; medians, with the fastest in brackets, and how \
         many times as fast ours is\n\n",
        network.size()
    );
    let mut row = |name: &str, cell: &dyn Fn(&Measured) -> String| {
        let cells: Vec<String> = sides.iter().map(|side| format!("{:>36}", cell(side))).collect();
        let _ = writeln!(text, "{name:<22}{}", cells.concat());
    };
    row("", &|side| side.name.clone());
    row("training step", &|side| times_cell(&sides[0].train, &side.train));
    row("training, CPU time", &|side| times_cell(&sides[0].train_cpu, &side.train_cpu));
    if *network == SeriesNetwork::TimeGrad {
        row(&format!("forecast, {PATHS} paths"), &|side| times_cell(&sides[0].forecast, &side.forecast));
    }
    row("peak memory", &|side| format!("{:.0} MiB", side.peak_mib));
    text
}

fn text_of_lengths(lengths: &[Comparison]) -> String {
    let mut text = String::from("sssd: a training step by the length of the series\n\n");
    let _ = writeln!(text, "{:>8}{:>14}{:>20}{:>14}", "steps", "ms", "us for a step", "memory");
    for Comparison { series, sides } in lengths {
        let (time, memory) = (super::table::median(&sides[0].train).unwrap_or_default(), sides[0].peak_mib);
        let per_step = time * 1e6 / series.size as f64;
        let _ = writeln!(text, "{:>8}{:>14.1}{per_step:>20.1}{memory:>10.0} MiB", series.size, time * 1e3);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_by_name_and_size() {
        assert_eq!("sssd:248".parse(), Ok(Series { network: SeriesNetwork::Sssd, size: 248 }));
        for wrong in ["sssd", "s4:12", "csdi:", "csdi:1", "timegrad:x"] {
            let error = wrong.parse::<Series>().unwrap_err();
            assert!(error.contains(wrong) && error.contains("timegrad:N"), "{error}");
        }
    }

    #[test]
    fn a_table_has_ratios_of_medians() {
        let side = |name: &str, time: f64| Measured {
            name: name.into(),
            train: vec![time, 2.0 * time, 9.0 * time],
            forecast: vec![time],
            ..Measured::default()
        };
        let series = Series { network: SeriesNetwork::TimeGrad, size: 4 };
        let comparison = Comparison { series, sides: vec![side("ours", 0.01), side("theirs", 0.03)] };
        let text = text(&comparison, 2);
        let train = text.lines().find(|line| line.starts_with("training step")).unwrap();
        assert!(train.contains("20.0 ms (10.0)") && train.contains("60.0 ms (30.0), 3.00 times"), "{text}");
        assert!(text.contains("forecast, 100 paths"), "{text}");
        let lengths = text_of_lengths(&[Comparison { series, sides: vec![side("ours", 0.01)] }]);
        assert!(lengths.lines().any(|line| line.contains("5000.0")), "{lengths}");
    }
}

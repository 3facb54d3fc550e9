//! What was measured, as text.

use std::fmt::Write;

use super::{Comparison, Measured, Shape};

/// Work of a training step in forward passes: the way back has two products for each of the way there.
const TRAIN_FORWARDS: f64 = 3.0;
/// Rows of the square matrices of `multiply`.
const MATRIX: f64 = 1536.0;

/// The tables of one network: ours in the first column, then the others with the ratio of ours to them.
pub(super) fn text(comparison: &Comparison) -> String {
    let Comparison { shape: Shape { channels, batch, size }, parameters, sides, forward_flops, .. } = comparison;
    let threads = sides[0].threads;
    let mut text = format!(
        "U-Net of {parameters} parameters, {channels} channels, batches of {batch} images of {size}x{size}, {threads} \
         threads; medians, and how many times as fast ours is\n\n"
    );
    row(&mut text, "", sides, |side| side.name.clone());
    let pictures = *batch as f64;
    let half = |side: &Measured| side.name.contains("f16");
    let peak = |of_half: bool| {
        let sides = sides.iter().filter(|side| half(side) == of_half);
        sides.map(gflops_of_products).fold(0.0, f64::max)
    };
    let speed = |side: &Measured, times: fn(&Measured) -> &Vec<f64>, per: f64, unit: &str| match median(times(side)) {
        Some(time) => format!("{:.1} {unit}{}", per / time, ratio(&sides[0], side, times)),
        None => "-".into(),
    };
    row(&mut text, "forward", sides, |side| speed(side, |side| &side.forward, pictures, "img/s"));
    row(&mut text, "training step", sides, |side| speed(side, |side| &side.train, pictures, "img/s"));
    if comparison.steps > 0 {
        let name = format!("sampling, {} steps", comparison.steps);
        row(&mut text, &name, sides, |side| speed(side, |side| &side.sample, pictures, "img/s"));
    }
    row(&mut text, "loading and noise", sides, |side| speed(side, |side| &side.load, pictures, "img/s"));
    let cpu = |side: &Measured, times: fn(&Measured) -> &Vec<f64>| match median(times(side)) {
        Some(time) => format!("{time:.3} s{}", ratio(&sides[0], side, times)),
        None => "-".into(),
    };
    row(&mut text, "forward, CPU time", sides, |side| cpu(side, |side| &side.forward_cpu));
    row(&mut text, "training, CPU time", sides, |side| cpu(side, |side| &side.train_cpu));
    row(&mut text, "start to first step", sides, |side| match median(&side.start) {
        Some(time) => format!("{time:.2} s{}", ratio(&sides[0], side, |side| &side.start)),
        None => "-".into(),
    });
    row(&mut text, "peak memory, forward", sides, |side| format!("{:.0} MiB", side.forward_peak_mib));
    row(&mut text, "peak memory, training", sides, |side| format!("{:.0} MiB", side.train_peak_mib));
    row(&mut text, "matrix product", sides, |side| format!("{:.0} GFLOP/s", gflops_of_products(side)));
    let share = |side: &Measured, times: &[f64], work: f64| {
        let gflops = median(times).map_or(0.0, |time| work / time / 1e9);
        format!("{gflops:.0} GFLOP/s, {:.0} %", 100.0 * gflops / peak(half(side)))
    };
    row(&mut text, "forward, of the peak", sides, |side| share(side, &side.forward, *forward_flops));
    row(&mut text, "training, of the peak", sides, |side| share(side, &side.train, TRAIN_FORWARDS * forward_flops));
    let _ = write!(
        text,
        "\nCounted are the {:.2} GFLOP of a forward pass in convolutions, dense layers and attention as the definition \
         has them; a\nfaster algorithm needs fewer and can pass the peak, which is the best matrix product above of the \
         same number format.\n",
        forward_flops / 1e9
    );
    profile(&mut text, comparison);
    text
}

fn profile(text: &mut String, comparison: &Comparison) {
    if comparison.operations.is_empty() {
        return;
    }
    let step = comparison.step_ms;
    let _ = writeln!(
        text,
        "\nA training step of ours by operation\n\n{:<44} {:>6} {:>9} {:>7}",
        "", "calls", "ms", "share"
    );
    let mut line = |name: &str, calls: &str, time: f64| {
        let _ = writeln!(text, "{name:<44} {calls:>6} {time:>9.2} {:>6.1}%", 100.0 * time / step);
    };
    let mut operations = comparison.operations.clone();
    operations.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    for operation in &operations {
        line(&operation.name, &format!("{:.0}", operation.calls), operation.milliseconds);
    }
    let kernels: f64 = operations.iter().map(|operation| operation.milliseconds).sum();
    line("the rest, by operations of Burn", "", step - kernels);
    line("all", "", step);
}

fn row(text: &mut String, name: &str, sides: &[Measured], cell: impl Fn(&Measured) -> String) {
    let cells: Vec<String> = sides.iter().map(|side| format!("{:>26}", cell(side))).collect();
    let _ = writeln!(text, "{name:<22}{}", cells.concat());
}

/// How many times as fast ours is, for the columns of others.
fn ratio(ours: &Measured, side: &Measured, times: fn(&Measured) -> &Vec<f64>) -> String {
    if std::ptr::eq(ours, side) {
        return String::new();
    }
    match (median(times(ours)), median(times(side))) {
        (Some(ours), Some(theirs)) => format!(" ({:.2})", theirs / ours),
        _ => String::new(),
    }
}

fn gflops_of_products(side: &Measured) -> f64 {
    let fastest = side.multiply.iter().copied().fold(f64::INFINITY, f64::min);
    2.0 * MATRIX.powi(3) / fastest / 1e9
}

pub(super) fn median(times: &[f64]) -> Option<f64> {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    match times.len() {
        0 => None,
        n if n % 2 == 1 => Some(times[middle]),
        _ => Some(0.5 * (times[middle - 1] + times[middle])),
    }
}

/// Median and fastest of times in seconds, and next to those of ours how many times as long they took.
pub(super) fn times_cell(ours: &[f64], times: &[f64]) -> String {
    let Some(time) = median(times) else { return "-".into() };
    let fastest = times.iter().copied().fold(f64::INFINITY, f64::min);
    let ratio = match (std::ptr::eq(ours, times), median(ours)) {
        (false, Some(ours)) => format!(", {:.2} times", time / ours),
        _ => String::new(),
    };
    format!("{:.1} ms ({:.1}){ratio}", time * 1e3, fastest * 1e3)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_any_number() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_say_how_many_times_as_fast_ours_is() {
        let side = |name: &str, time: f64| Measured {
            name: name.into(),
            threads: 2,
            forward: vec![time],
            train: vec![3.0 * time],
            multiply: vec![0.1],
            ..Measured::default()
        };
        let comparison = Comparison {
            shape: Shape { channels: 64, batch: 8, size: 32 },
            parameters: 10,
            steps: 0,
            forward_flops: 1e9,
            sides: vec![side("ours", 1.0), side("theirs", 2.0)],
            step_ms: 0.0,
            operations: Vec::new(),
        };
        let text = text(&comparison);
        let forward = text.lines().find(|line| line.starts_with("forward ")).unwrap();
        assert!(forward.contains("8.0 img/s") && forward.contains("4.0 img/s (2.00)"), "{text}");
    }
}

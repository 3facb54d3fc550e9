//! What this process keeps in memory, and what a training will take.

use std::fmt;

use ddpm_device::device::OpenDevice;
use ddpm_device::memory::of_this_machine;
use ddpm_families::family::erased::AnyFamily;
use ddpm_model::network::MemoryEstimate;

use crate::config::Experiment;
use crate::trained_part::TrainedSizes;

/// What the operations of a step hold for a while, beside each byte that it keeps for the way back and each byte of a
/// gradient: measured on flex with networks of 1 to 9 million parameters and batches of 16 to 1,024, not derived.
const BESIDE_ACTIVATIONS: u64 = 1;
const BESIDE_GRADIENTS: u64 = 2;

/// What the threads of a training take beyond what the process has before: measured likewise.
const THREADS: u64 = 8 << 20;

/// What a training will take, in bytes: an estimate without running it.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    network: MemoryEstimate,
    /// All averages of the weights together.
    averages: u64,
    /// What the operations of a step hold for a while.
    temporary: u64,
    /// The program, its threads and the data that it has read.
    program: u64,
}

impl Estimate {
    /// The estimate for one of several devices, with the memory that the process has now, before it has a network.
    pub fn of(
        experiment: &Experiment,
        family: &dyn AnyFamily,
        parameters: usize,
        sizes: TrainedSizes,
        devices: usize,
    ) -> Self {
        let train = &experiment.train;
        let part = train.batch_size / train.accumulate / devices;
        let network = of_trained(family.memory_estimate(parameters, part), sizes);
        let kept = experiment.ema.post_hoc.as_ref().map_or(0, |post_hoc| post_hoc.widths.len() as u64);
        let resident = resident_mib().map_or(0, |mib| (mib * f64::from(1 << 20)) as u64);
        Self {
            network,
            averages: (1 + kept) * network.ema,
            temporary: BESIDE_ACTIVATIONS
                .saturating_mul(network.activations)
                .saturating_add(BESIDE_GRADIENTS.saturating_mul(network.gradients)),
            program: resident + THREADS,
        }
    }

    /// All of it together.
    pub fn total(&self) -> u64 {
        let MemoryEstimate { parameters, gradients, optimizer, activations, .. } = self.network;
        [parameters, gradients, optimizer, self.averages, activations, self.temporary, self.program]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// What there is to say if the device has less, and it is known how much that is.
    pub fn warning(&self, device: &OpenDevice) -> Option<String> {
        // A device with memory of its own does not tell.
        device.memory_gib()?;
        let mib = of_this_machine()? as f64 / f64::from(1 << 20);
        (self.total() as f64 / f64::from(1 << 20) > mib).then(|| {
            format!(
                "about {} MiB of memory are needed, and there are {mib:.0} MiB: a smaller train.batch_size or a larger \
                 train.accumulate needs less",
                self.total() >> 20
            )
        })
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
        write!(
            f,
            "about {} MiB: {} parameters, {} gradients, {} optimiser, {} averages, {} activations, {} temporary, {} the \
             program and its data",
            mib(self.total()),
            mib(self.network.parameters),
            mib(self.network.gradients),
            mib(self.network.optimizer),
            mib(self.averages),
            mib(self.network.activations),
            mib(self.temporary),
            mib(self.program)
        )
    }
}

/// What there is of a network, some of which is trained: of the rest there are no gradients, moments and averages, and a
/// weight with factors is there once more, with their product added.
fn of_trained(whole: MemoryEstimate, sizes: TrainedSizes) -> MemoryEstimate {
    let bytes = |values: usize| (values as u64).saturating_mul(size_of::<f32>() as u64);
    let trained = bytes(sizes.trained);
    MemoryEstimate {
        parameters: whole.parameters.saturating_add(bytes(sizes.adapted)),
        gradients: trained,
        optimizer: trained.saturating_mul(2),
        ema: trained,
        ..whole
    }
}

/// The resident memory in MiB, where the system tells it in `/proc`.
pub fn resident_mib() -> Option<f64> {
    status_mib("VmRSS:")
}

/// The most resident memory so far in MiB, where the system tells it in `/proc`.
pub fn peak_mib() -> Option<f64> {
    status_mib("VmHWM:")
}

fn status_mib(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_seen() {
        let before = resident_mib().unwrap();
        let touched = vec![1_u8; 64 << 20];
        assert!(resident_mib().unwrap() > before + 32.0, "{}", touched.len());
        drop(touched);
        assert!(peak_mib().unwrap() > before + 32.0);
    }
}

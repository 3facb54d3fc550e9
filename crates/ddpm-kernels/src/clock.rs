//! How long each kernel ran in this process: what `ddpm-lab bench --profile` shows.
//!
//! Two counters a kernel, always on: reading the clock costs a millionth of a training step.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

macro_rules! operations {
    ($($name:ident => $words:literal,)*) => {
        /// A kernel, told apart by what it computes.
        #[derive(Clone, Copy)]
        #[cfg_attr(not(feature = "flex"), allow(dead_code))]
        pub(crate) enum Operation { $($name,)* }

        const NAMES: &[&str] = &[$($words,)*];
    };
}

operations! {
    Conv3Forward => "convolution 3x3",
    Conv3Input => "convolution 3x3, gradient of the input",
    Conv3Weight => "convolution 3x3, gradient of the weight",
    Conv1Forward => "convolution 1x1",
    Conv1Input => "convolution 1x1, gradient of the input",
    Conv1Weight => "convolution 1x1, gradient of the weight",
    NormForward => "group norm and SiLU",
    NormBackward => "group norm and SiLU, gradients",
    LayerNorm => "layer norm",
    LayerNormBackward => "layer norm, gradients",
    Dense => "dense layers",
    DenseBackward => "dense layers, gradients",
    ConvForward => "convolution with a stride",
    ConvInput => "convolution with a stride, gradient of the input",
    ConvWeight => "convolution with a stride, gradient of the weight",
    Attention => "attention",
    AttentionBackward => "attention, gradients",
    Gelu => "GELU",
    GeluBackward => "GELU, gradients",
    Transpose => "tokens of pixels and back",
    Sum => "sum of a residual connection",
    Concat => "joining channels, and their gradients",
    Shift => "shifting channels by the time, and its gradient",
    Encoder => "layer of an encoder",
    EncoderBackward => "layer of an encoder, gradients",
    Rows => "dense layers of rows",
    RowsBackward => "dense layers of rows, gradients",
    Residual => "gates and residual connections",
    ResidualBackward => "gates and residual connections, gradients",
    WeightNorm => "weight normalization",
    Short => "short convolution of sequences",
    ShortBackward => "short convolution of sequences, gradients",
    Basis => "kernels of state spaces",
    BasisBackward => "kernels of state spaces, gradients",
    Long => "long convolution of sequences",
    LongBackward => "long convolution of sequences, gradients",
    Mixed => "dense layer with GELU and layer norm",
    MixedBackward => "dense layer with GELU and layer norm, gradients",
    Recurrence => "recurrent cells",
    RecurrenceBackward => "recurrent cells, gradients",
    Circle => "gated convolutions on a circle",
    CircleBackward => "gated convolutions on a circle, gradients",
    Adam => "Adam",
    Average => "average of the weights",
    Norm => "norm and clipping of the gradients",
}

static CALLS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];
static NANOSECONDS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

/// Does the work and counts its time.
#[cfg_attr(not(feature = "flex"), allow(dead_code))]
pub(crate) fn time<R>(operation: Operation, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = work();
    NANOSECONDS[operation as usize].fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
    CALLS[operation as usize].fetch_add(1, Relaxed);
    result
}

/// Sets all counters to zero.
pub fn reset() {
    for counter in CALLS.iter().chain(&NANOSECONDS) {
        counter.store(0, Relaxed);
    }
}

/// Name, calls and time of each kernel that ran since [`reset`].
pub fn read() -> Vec<(&'static str, u64, Duration)> {
    let counters = NAMES.iter().zip(&CALLS).zip(&NANOSECONDS);
    let read = counters.map(|((name, calls), time)| (*name, calls.load(Relaxed), time.load(Relaxed)));
    read.filter(|(_, calls, _)| *calls > 0)
        .map(|(name, calls, time)| (name, calls, Duration::from_nanos(time)))
        .collect()
}

//! Fast tensor operations behind plain functions.
//!
//! Every function takes Burn's own modules, so parameter names and records stay Burn's, and does what
//! their `forward` does. On the `flex` backend, for tensors in `f32` (with products in `f32` or `bf16`), a kernel does it; on
//! GPUs one does normalisations, Adam and averages; LibTorch does its own; for every other backend, dtype or shape Burn's
//! operations do: the *fallback*, which is also what the tests compare the kernels with.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `group_norm.rs` | [`norm_silu`], [`norm_scale_shift_silu`] and [`group_norm`]: when the kernel is used, and the fallback |
//! | `layer_norm.rs` | [`layer_norm`], [`modulated_layer_norm`]: the same, on flex |
//! | `conv.rs` | [`conv2d`]: the same |
//! | `conv/rectified.rs`, `pool.rs` | [`conv2d_relu`], [`max_pool2d`], [`avg_pool2d`]: forward only, for networks that are not trained |
//! | `dense.rs`, `attention.rs` | [`dense`], [`dense_channels`]; [`attention`], [`biased_attention`]: the same |
//! | `channels.rs`, `sum.rs`, `gelu.rs` | [`concat()`], [`shift`], [`add`], [`gelu`]: the same |
//! | `tokens.rs` | [`token_attention`], [`gated_gelu`], [`tanh_gelu`], [`add_gated`], [`transposed`]: layers of transformers, the same |
//! | `encoder.rs`, `residual.rs`, `sequence.rs`, `recurrent.rs`, `wavenet.rs` | parts of networks for time series, several layers each: None where there is no kernel, for the network to do layer by layer |
//! | `fused.rs` | these as Burn sees them, whatever their number of inputs |
//! | `rows.rs` | dense layers as parts of them |
//! | `precision.rs` | [`Precision`]: what products are computed in |
//! | `kept.rs` | weights that are kept in bf16 |
//! | `weights.rs` | Adam, averages and norms of weights |
//! | `*/flex.rs` | the operation as Burn sees it: forward on flex, backward on autodiff over flex |
//! | `*/kernel.rs` | the arithmetic, on slices |
//! | `flex.rs` | from tensors to slices and back; whether a tensor lives on flex |
//! | `group_norm/cube.rs`, `weights/cube.rs` | the operation on GPUs as Burn sees it: forward through fusion, backward on autodiff |
//! | `group_norm/cube_kernel.rs` | its kernels; those of `weights/cube.rs` are in the same file |
//! | `cube.rs` | whether a tensor lives on a GPU; how many units work together, and their sums |
//! | `torch.rs` | operations of LibTorch with its own gradients |
//! | `clock.rs` | how long each kernel ran |
//! | `awake.rs` | threads that wait for work without falling asleep |
//! | `memory.rs` | what becomes of memory that is freed |
//! | `output.rs`, `scratch.rs` | memory for results, and memory that is used again |
//! | `product.rs`, `bf16.rs` | sums of products in registers; numbers of 16 bits as their operands |
//! | `simd.rs` | choice of vector instructions at run time, exponential, sums |
//!
//! Results do not depend on the number of threads, bit for bit: every element of an output belongs to
//! one task, the size of a task depends on shapes only, and partial sums are added in a fixed order.
//! They do depend on the kind of processor, whose vector width decides the order inside a sum. The
//! kernels for GPUs keep to the same rules, so that a GPU repeats itself, too.

#![deny(unsafe_op_in_unsafe_fn)]

mod attention;
#[cfg(feature = "flex")]
mod awake;
#[cfg(feature = "flex")]
mod bf16;
mod channels;
pub mod clock;
mod conv;
#[cfg(feature = "cube")]
mod cube;
mod dense;
mod encoder;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod fused;
mod gelu;
mod group_norm;
#[cfg(feature = "flex")]
mod kept;
mod layer_norm;
pub mod memory;
#[cfg(feature = "flex")]
mod output;
mod pool;
mod precision;
#[cfg(feature = "flex")]
mod product;
mod recurrent;
mod residual;
#[cfg(feature = "flex")]
mod rows;
#[cfg(feature = "flex")]
mod scratch;
mod sequence;
#[cfg(feature = "flex")]
mod simd;
mod sum;
mod tokens;
#[cfg(feature = "torch")]
mod torch;
mod wavenet;
pub mod weights;

pub use attention::{attention, biased_attention};
pub use channels::{concat, shift};
pub use conv::{conv2d, conv2d_relu};
pub use dense::{dense, dense_channels};
pub use encoder::{EncoderLayer, encoder_layer};
pub use gelu::gelu;
pub use group_norm::{group_norm, norm_scale_shift_silu, norm_silu};
pub use layer_norm::{layer_norm, modulated_layer_norm};
pub use pool::{avg_pool2d, max_pool2d};
pub use precision::Precision;
pub use recurrent::{gated_recurrence, long_short_term_recurrence};
pub use residual::{Gate, dense_rows, dense_sum, gated_residual, shifted_state};
pub use sequence::{kernels_of_basis, long_convolution, mixed_norm, short_convolution, weight_norm};
pub use sum::add;
pub use tokens::{add_gated, gated_gelu, tanh_gelu, token_attention, transposed};
pub use wavenet::{CircleBlock, Slope, circle_block, circle_end, circle_start, lanes_for};

use burn::tensor::{Device, Tensor, activation};

/// Does the work for a device, on flex on one of the threads that the kernels use. Called from outside, every kernel has to
/// wake one of them and wait for it; from inside it starts at once.
///
/// The work must not wait for another thread that uses kernels: with a single thread that would be for ever.
pub fn among_the_kernels<R: Send>(_device: &Device, work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "flex")]
    if flex::is_flex(_device) {
        return awake::with_all_threads(work);
    }
    work()
}

/// The activation `x * sigmoid(x)`; where it follows a group normalisation, [`norm_silu`] is faster.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::silu(x)
}

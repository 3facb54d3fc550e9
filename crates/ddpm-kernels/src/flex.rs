//! Between Burn's tensors and the slices that kernels work on.

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

/// The tensor primitive of the flex backend.
pub(crate) type FlexTensor = FloatTensor<Flex>;

/// Whether the kernels can take this tensor: `f32`, on flex, with or without autodiff.
///
/// Ask before calling an operation of this crate: on a backend that it does not list, the code
/// generated for it panics.
pub(crate) fn is_f32_on_flex<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_flex(&x.device())
}

/// Whether flex computes there, with or without autodiff.
pub(crate) fn is_flex(device: &Device) -> bool {
    matches!(device.clone().without_autodiff().as_dispatch(), DispatchDevice::Flex(_))
}

/// The same values in row-major order without gaps; a copy only if they are not.
///
/// Incoming gradients are often views: transposed, or expanded with stride 0 after a sum.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().contiguous_offsets().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The values of a tensor that went through [`contiguous`].
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    #[allow(clippy::expect_used, reason = "public functions check the dtype, callers the layout")]
    tensor.as_slice::<f32>().expect("f32 values without gaps")
}

/// The values of a tensor that went through [`contiguous`], to be changed in place; copied first if somebody else holds
/// them.
pub(crate) fn values_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    let (start, end) = tensor.layout().contiguous_offsets().unwrap_or_default();
    &mut tensor.storage_mut::<f32>()[start..end]
}

/// A tensor that takes over `values`.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

//! Weights that follow from nothing but their place.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use ddpm_data::random::{Stream, normals, rng};

/// The network with weights that do not depend on what other tests draw at the same time; `size` is their deviation.
pub fn drawn<M: Module>(network: M, size: f64) -> M {
    struct Draw(f64);
    impl ModuleMapper for Draw {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let mut rng = rng(3, Stream::Init, param.id.val());
            param.map(|weight| {
                let numbers = normals(&mut rng, weight.shape().num_elements());
                let drawn = Tensor::from_data(TensorData::new(numbers, weight.dims()), &weight.device());
                (drawn * self.0).detach().set_require_grad(weight.is_require_grad())
            })
        }
    }
    network.map(&mut Draw(size))
}

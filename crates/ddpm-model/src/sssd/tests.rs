#![allow(clippy::unwrap_used)]

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Distribution, Tensor};

use super::complex::Complex;
use super::hippo::diagonal_plus_low_rank;
use super::loss::missing_mse;
use super::state_space::{KernelSum, StateSpace};
use super::*;

fn small() -> SssdConfig {
    SssdConfig {
        in_channels: 2,
        out_channels: 2,
        length: 9,
        residual_channels: 4,
        skip_channels: 3,
        layers: 2,
        step_sinusoids: 8,
        step_hidden: 6,
        step_features: 5,
        states: 6,
        ..SssdConfig::default()
    }
}

/// The values of all parameters, and how many of these are trained.
#[derive(Default)]
struct Touch(Vec<f64>, usize);

impl ModuleVisitor for Touch {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values: Vec<f64> = param.val().into_data().iter::<f64>().collect();
        self.1 += if param.is_require_grad() { values.len() } else { 0 };
        self.0.extend(values);
    }
}

fn random(shape: [usize; 3]) -> Tensor<3> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::default())
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

#[test]
fn a_convolution_is_the_sum_over_both_directions() {
    let [batch, features] = [2, 3];
    for length in [1, 2, 7] {
        let x = random([batch, features, length]).cast(DType::F64);
        let kernels = random([2, features, length]).cast(DType::F64);
        let kernel = |i: usize| kernels.clone().narrow(0, i, 1).reshape([features, length]);
        for backward in [None, Some(kernel(1))] {
            let both = backward.is_some();
            let found = host(convolve(x.clone(), kernel(0), backward));
            let (x, k) = (host(x.clone()), host(kernels.clone()));
            let at = |direction: usize, h: usize, l: usize| k[(direction * features + h) * length + l];
            for (i, found) in found.into_iter().enumerate() {
                let (row, h, t) = (i / length, i / length % features, i % length);
                let term = |s: usize| match s <= t {
                    true => at(0, h, t - s) * x[row * length + s],
                    false if both => at(1, h, s - t - 1) * x[row * length + s],
                    false => 0.0,
                };
                let wanted: f64 = (0..length).map(term).sum();
                assert!((found - wanted).abs() < 1e-12, "{length} {i}: {found} instead of {wanted}");
            }
        }
    }
}

#[test]
fn the_kernel_of_a_corrected_c_does_not_depend_on_the_stored_length() {
    let hippo = diagonal_plus_low_rank(8);
    let q = hippo.p.iter().map(|p| p.conj()).collect();
    let space = StateSpace { w: hippo.w, p: hippo.p, q, b: hippo.b, dt: 0.05 };
    let c: Vec<Complex> = (0..4).map(|n| Complex::new(1.0 / (n as f64 + 1.0), 0.3 * n as f64)).collect();
    let kernel = |stored: usize| -> Vec<f64> {
        let (c, basis) = (space.corrected_for_length(&c, stored), space.basis(KernelSum::Full, stored, 30));
        let c: Vec<f64> = c.into_iter().flat_map(|value| [value.re, value.im]).collect();
        (0..30).map(|l| c.iter().enumerate().map(|(n, c)| c * basis[n * 30 + l]).sum()).collect()
    };
    let (short, long) = (kernel(17), kernel(64));
    assert!(short.iter().any(|value| value.abs() > 0.01));
    short.iter().zip(&long).for_each(|(short, long)| assert!((short - long).abs() < 1e-10, "{short} {long}"));
}

#[test]
fn kernels_in_blocks_are_those_of_the_whole_basis() {
    let device = Device::default().autodiff();
    let kind = KernelKind::DiagonalPlusLowRank;
    let config = S4Config { features: 3, states: 8, length: 1100, bidirectional: true, layer_norm: true, kind };
    let layer = S4Layer::init(config, &device);
    let (short, long) = (layer.basis(KernelSum::Full, 512), layer.basis(KernelSum::Full, 1100));
    assert_eq!((short.length(), long.length()), (512, 1100));
    let long = layer.kernels(&long);
    assert_eq!(long.dims(), [2, 3, 1100]);
    let (found, wanted) = (host(long.clone().narrow(2, 0, 512)), host(layer.kernels(&short)));
    let largest = wanted.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!((found - wanted).abs() < 1e-5 * largest, "{found} instead of {wanted}");
    }
    assert!(host(long).iter().all(|value| value.is_finite()));
}

#[test]
fn a_new_network_puts_out_zeros_and_trains_only_c_of_its_kernels() {
    let device = Device::default().autodiff();
    let network = small().init(&device).unwrap();
    let mut touch = Touch::default();
    network.visit(&mut touch);
    assert!(touch.0.iter().all(|value| value.is_finite()));
    // Per feature of the four S4 layers: the step size, and w, P, Q, B of three complex states.
    assert_eq!(touch.0.len() - touch.1, 4 * 8 * (1 + 4 * 6));

    let known = Observations { values: random([1, 2, 9]), mask: Tensor::ones([1, 2, 9], &device) };
    let (times, bases) = (Tensor::ones([1], &device), network.bases(9).unwrap());
    let output = network.forward(random([1, 2, 9]), &known, times, &bases, &Pass::default());
    assert!(host(output).iter().all(|&value| value == 0.0));
    let layer = S4Layer::init(small().s4(), &device);
    let kernels = host(layer.kernels(&layer.basis(KernelSum::Full, 9)));
    assert_eq!(kernels.len(), 2 * 8 * 9);
    assert!(kernels.iter().all(|value| value.is_finite()) && kernels.iter().any(|value| value.abs() > 1e-3));
}

#[test]
fn configs_have_the_keys_of_sssd_and_name_what_is_wrong() {
    let keys = r#"{"s4_lmax": 20, "res_channels": 8, "num_res_layers": 3, "s4_d_state": 8, "kernel_sum": "half"}"#;
    let config: SssdConfig = serde_json::from_str(keys).unwrap();
    assert_eq!((config.length, config.features(), config.layers, config.states), (20, 16, 3, 8));
    let open = SssdConfig::default().with_data(&[14, 100]);
    assert_eq!((open.in_channels, open.out_channels, open.length), (14, 14, 100));
    assert!(open.problems().is_empty());

    let wrong = SssdConfig { states: 7, step_sinusoids: 5, layers: 0, ..small() };
    let error = wrong.init(&Device::default()).unwrap_err().to_string();
    assert!(["states: is 7", "step_sinusoids: 5", "layers: is 0"].iter().all(|part| error.contains(part)), "{error}");
    let half = SssdConfig { kernel_sum: KernelSum::Half, ..small() }.init(&Device::default()).unwrap();
    assert!(half.bases(10).unwrap_err().to_string().contains("have 9 values"));
    assert!(half.bases(0).is_err());
}

#[test]
fn only_missing_places_count_in_the_loss() {
    let device = Device::default();
    let [prediction, target, mask] =
        [[1.0, 2.0, 3.0], [0.0, 9.0, 1.0], [0.0, 1.0, 0.0]].map(|row| Tensor::<1>::from_floats(row, &device));
    let loss = |mask| host(missing_mse(prediction.clone(), target.clone(), mask))[0];
    assert!((loss(mask) - 2.5).abs() < 1e-6);
    assert_eq!(loss(target.ones_like()), 0.0);
}

#[test]
fn the_kernel_of_s4d_is_that_of_its_recurrence() {
    let device = Device::default();
    let config = S4Config { kind: KernelKind::Diagonal, ..small().s4() };
    let layer = S4Layer::init(config, &device);
    let (features, length, half) = (config.features, 7, config.states / 2);
    let kernels = host(layer.kernels(&layer.basis(KernelSum::Full, length)));
    let mut params = Parameters::default();
    layer.visit(&mut params);
    let of = |name: &str| params.0.iter().find(|(found, _)| found.ends_with(name)).unwrap().1.clone();
    let (c, log_dt, log_re, im) = (of("C"), of("log_dt"), of("log_A_real"), of("A_imag"));
    for direction in 0..2 {
        for h in 0..features {
            let dt = log_dt[h].exp();
            // x' = A x + u, held over a step: x <- exp(dt A) x + (exp(dt A) - 1) / A u.
            let mut found = vec![0.0; length];
            for n in 0..half {
                let a = Complex::new(-log_re[h * half + n].exp(), im[h * half + n]);
                let power = Complex::unit(a.im * dt) * (a.re * dt).exp();
                let mut x = (power - Complex::new(1.0, 0.0)) * a.inverse();
                let at = ((direction * features + h) * half + n) * 2;
                let c = Complex::new(c[at], c[at + 1]);
                for value in &mut found {
                    *value += 2.0 * (c * x).re;
                    x = x * power;
                }
            }
            let start = (direction * features + h) * length;
            for (found, kernel) in found.iter().zip(&kernels[start..start + length]) {
                assert!((found - kernel).abs() < 1e-4 * (1.0 + found.abs()), "{direction} {h}: {found} {kernel}");
            }
        }
    }
}

/// All parameters with their names.
#[derive(Default)]
struct Parameters(Vec<(String, Vec<f64>)>, Vec<String>);

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.1.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.1.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push((self.1.join("."), param.val().into_data().iter::<f64>().collect()));
    }
}

#[test]
fn every_kind_of_layer_has_gradients_for_all_that_it_trains() {
    let device = Device::default().autodiff();
    for (layer, constants) in [(SequenceLayer::S4, 25), (SequenceLayer::S4d, 0), (SequenceLayer::Dilated, 0)] {
        let network = SssdConfig { layer, ..small() }.init(&device).unwrap();
        let mut touch = Touch::default();
        network.visit(&mut touch);
        assert_eq!(touch.0.len() - touch.1, 4 * 8 * constants, "{layer:?}");
        let known = Observations { values: random([1, 2, 9]), mask: Tensor::zeros([1, 2, 9], &device) };
        let bases = network.kept_bases(9).unwrap();
        assert_eq!(bases.length(), 9);
        let x = random([1, 2, 9]).to_device(&device);
        let output = network.forward(x, &known, Tensor::ones([1], &device), &bases, &Pass::default());
        assert_eq!(output.dims(), [1, 2, 9]);
        let gradients = output.sum().backward();
        // All but the last convolution have zeros as long as its weights are 0.
        assert!(burn::optim::GradientsParams::from_grads(gradients, &network).len() > 20, "{layer:?}");
    }
    // Doubled from block to block.
    let dilated = SssdConfig { layer: SequenceLayer::Dilated, dilation_cycle: 3, ..small() };
    assert_eq!([0, 1, 2, 3].map(|block| dilated.dilation(block)), [1, 2, 4, 1]);
}

#[test]
fn bases_are_computed_again_for_other_constants_only() {
    let device = Device::default();
    let network = small().init(&device).unwrap();
    let of = |network: &Sssd, length| network.kept_bases(length).unwrap();
    let first = of(&network, 9);
    assert!(std::sync::Arc::ptr_eq(&first, &of(&network.clone(), 9)));
    assert!(!std::sync::Arc::ptr_eq(&first, &of(&network, 8)));
    // The constants of another network.
    let other = small().init(&device).unwrap();
    let loaded = network.clone().load_record(other.clone().into_record());
    let last = |bases: &KernelBases| host(bases.blocks[1][1].clone().into_tensor());
    assert_eq!(last(&of(&loaded, 9)), last(&other.bases(9).unwrap()));
    assert!(last(&of(&loaded, 9)) != last(&first));
}

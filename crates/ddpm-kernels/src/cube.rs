//! What all kernels for GPUs share: which tensors they take, how many units work together, and sums over these.
//!
//! CubeCL compiles the functions marked `#[cube]` when they are first launched, for the device at hand. A *cube* is a block
//! of units that share memory, a *plane* is the units of it that run in lockstep.

use burn::backend::{CubeDevice, DispatchDevice};
use burn::tensor::{DType, Device, Shape, Tensor};
use burn_cubecl::cubecl::features::Plane;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

/// Units of a cube at most.
const MOST_UNITS: usize = 512;

/// What one unit has to do at least, or more units would be more waiting than work.
const VECTORS_PER_UNIT: usize = 4;

/// Units of a row where planes cannot add up.
const LANES: usize = 32;

/// Whether the kernels can take this tensor: `f32`, on a GPU, with or without autodiff.
pub(crate) fn is_f32_on_cube<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_on_cube(&x.device())
}

/// Whether CubeCL computes there, with or without autodiff. Its CPU runtime is left to Burn's own operations: units that
/// wait for each other are what it does worst.
pub(crate) fn is_on_cube(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(device) => !matches!(device, CubeDevice::Cpu(_)),
        _ => false,
    }
}

/// A tensor without values yet, beside another.
pub(crate) fn empty(beside: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(beside.client.clone(), beside.device.clone(), shape.into(), dtype)
}

/// Where a result of the shape of `tensor`, which is the argument at `position` of its kernel, goes: into its place if
/// nobody else holds it.
pub(crate) fn output_like(tensor: &CubeTensor, position: usize) -> (CubeTensor, BufferArg) {
    if tensor.can_mut() {
        return (tensor.clone(), tensor.as_tensor_alias(position).into_buffer_arg());
    }
    let output = empty(tensor, tensor.meta.shape().clone(), tensor.dtype);
    (output.clone(), output.into_buffer_arg())
}

/// How many values a unit reads at once where runs of `run` values lie together.
pub(crate) fn vector_size(tensor: &CubeTensor, run: usize) -> usize {
    let sizes = tensor.client.io_optimized_vector_sizes(tensor.dtype.size());
    sizes.filter(|size| run.is_multiple_of(*size)).max().unwrap_or(1)
}

/// The units of a cube, in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Team {
    /// Units of a row, a power of two.
    pub(crate) lanes: usize,
    pub(crate) rows: usize,
    /// Whether a row is a plane, which adds up without shared memory.
    planes: bool,
}

impl Team {
    /// For as many vectors.
    pub(crate) fn new(client: &Client, vectors: usize) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let size = hardware.plane_size_max as usize;
        // Where the size varies, which units make a plane is known in the kernel only.
        let planes = properties.features.plane.contains(Plane::Ops)
            && hardware.plane_size_min == hardware.plane_size_max
            && size.is_power_of_two()
            && size <= MOST_UNITS;
        let lanes = if planes { size } else { LANES };
        let most = MOST_UNITS.min(hardware.max_units_per_cube as usize).max(lanes);
        let units = (vectors / VECTORS_PER_UNIT).next_power_of_two().clamp(lanes, most);
        Self { lanes, rows: units / lanes, planes }
    }

    pub(crate) fn units(&self) -> usize {
        self.lanes * self.rows
    }

    pub(crate) fn cube_dim(&self) -> CubeDim {
        CubeDim::new_2d(self.lanes as u32, self.rows as u32)
    }
}

/// The sum of the values of a row, for each of its units. All units of the cube must call it; `shared` has room for them.
#[cube]
pub(crate) fn row_sum(value: f32, shared: &mut Shared<[f32]>, #[comptime] team: Team) -> f32 {
    if comptime!(team.planes) {
        plane_sum(value)
    } else {
        let unit = UNIT_POS as usize;
        let lane = UNIT_POS_X as usize;
        shared[unit] = value;
        sync_cube();
        let mut width = comptime!(team.lanes / 2).runtime();
        while width > 0 {
            if lane < width {
                shared[unit] += shared[unit + width];
            }
            sync_cube();
            width /= 2;
        }
        let sum = shared[unit - lane];
        sync_cube();
        sum
    }
}

/// The sum of the values of a cube, for each of its units. All of them must call it.
#[cube]
pub(crate) fn cube_sum(value: f32, shared: &mut Shared<[f32]>, #[comptime] team: Team) -> f32 {
    let of_row = row_sum(value, shared, team);
    if UNIT_POS_X == 0 {
        shared[UNIT_POS_Y as usize] = of_row;
    }
    sync_cube();
    let mut sum = shared[0];
    for row in 1..comptime!(team.rows) {
        sum += shared[row];
    }
    sync_cube();
    sum
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::panic::catch_unwind;

    use burn_cubecl::CubeDevice;

    use super::*;

    #[cube(launch)]
    fn sums_kernel(values: &[f32], of_rows: &mut [f32], of_cube: &mut [f32], #[comptime] team: Team) {
        let mut shared = Shared::<[f32]>::new_slice(comptime!(team.units()));
        let value = values[UNIT_POS as usize];
        of_rows[UNIT_POS as usize] = row_sum(value, &mut shared, team);
        of_cube[UNIT_POS as usize] = cube_sum(value, &mut shared, team);
    }

    /// Past the test harness, which would swallow it.
    fn say(what: &str) {
        let _ = writeln!(std::io::stderr(), "{what}");
    }

    fn sums(team: Team, values: &[f32], device: &CubeDevice) -> [Vec<f32>; 2] {
        let client = device.client();
        let tensor = |handle| {
            CubeTensor::new_contiguous(client.clone(), device.clone(), [values.len()].into(), handle, DType::F32)
        };
        let input = tensor(client.create_from_slice(f32::as_bytes(values)));
        let outputs = [0, 1].map(|_| empty(&input, [values.len()], DType::F32));
        let [of_rows, of_cube] = outputs.clone().map(CubeTensor::into_buffer_arg);
        let cubes = CubeCount::new_single();
        sums_kernel::launch(&client, cubes, team.cube_dim(), input.into_buffer_arg(), of_rows, of_cube, team);
        outputs.map(|output| f32::from_bytes(&client.read_one(output.handle).unwrap()).to_vec())
    }

    /// By planes where the device has them, and always by shared memory, which no other test on that device would use.
    #[test]
    fn rows_and_cubes_add_up_with_planes_and_without() {
        let probe = catch_unwind(|| match Device::default().as_dispatch() {
            DispatchDevice::Cube(device) => Some((device.client().name().to_string(), device.clone())),
            _ => None,
        });
        let Some((_, device)) = probe.ok().flatten() else {
            say("SKIPPED: there is no GPU here, so that its sums are not tested");
            return;
        };
        let best = Team::new(&device.client(), 1 << 20);
        if !best.planes {
            let client = device.client();
            let hardware = &client.properties().hardware;
            let sizes = (hardware.plane_size_min, hardware.plane_size_max);
            say(&format!("SKIPPED: the planes of this GPU, of {sizes:?} units, cannot add up or have no one size"));
        }
        let by_memory = Team { planes: false, ..best };
        let odd = Team { lanes: 8, rows: 3, planes: false };
        for team in [best, by_memory, odd, Team { rows: 1, ..best }, Team { rows: 1, ..odd }] {
            let values: Vec<f32> = (0..team.units()).map(|unit| ((unit * unit) % 97) as f32).collect();
            let [of_rows, of_cube] = sums(team, &values, &device);
            let total: f32 = values.iter().sum();
            for (row, values) in values.chunks(team.lanes).enumerate() {
                let sum: f32 = values.iter().sum();
                assert!(of_rows[row * team.lanes..][..team.lanes].iter().all(|found| *found == sum), "{team:?}: {row}");
            }
            assert!(of_cube.iter().all(|found| *found == total), "{team:?}");
        }
    }
}

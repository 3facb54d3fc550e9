//! The parts of the network as operations of Burn.

use burn::tensor::{Shape, Tensor};

use super::kernel::{self, Block, End, Start};
use super::{CircleBlock, Convolution, Slope};
use crate::clock::Operation;
use crate::flex::is_f32_on_flex;
use crate::fused::{Arithmetic, apply};

pub(super) fn start(x: Tensor<3>, (weight, bias): Convolution, slope: Slope) -> Option<Tensor<3>> {
    let ([groups, one, columns], [channels, inputs, taps]) = (x.dims(), weight.dims());
    let fit = [one, inputs, taps] == [1, 1, 1] && groups * columns * channels > 0;
    if !fit || !is_f32_on_flex(&x) || !is_f32_on_flex(&weight) {
        return None;
    }
    let start = Start { groups, columns, channels, slope: slope.0 as f32 };
    Some(apply(vec![x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()], start))
}

pub(super) fn block(
    carried: Tensor<3>,
    embedding: Tensor<3>,
    condition: Tensor<3>,
    block: CircleBlock,
    lanes: usize,
    slope: Slope,
) -> Option<Tensor<3>> {
    let ([groups, twice, columns], [_, width, _]) = (carried.dims(), embedding.dims());
    let places = columns / lanes.max(1);
    let fit = twice % 2 == 0
        && block.dilated.0.dims() == [twice, twice / 2, 3]
        && places * lanes == columns
        && block.dilation <= places
        && [[groups, width, lanes], [1, width, 1]].contains(&embedding.dims())
        && condition.dims() == [groups, 1, columns];
    let all_f32 = [&carried, &embedding, &condition, &block.dilated.0].into_iter().all(is_f32_on_flex);
    if !fit || !all_f32 || groups * twice * columns * width == 0 {
        return None;
    }
    let dims =
        Block { groups, channels: twice / 2, width, places, lanes, dilation: block.dilation, slope: slope.0 as f32 };
    let inputs = vec![
        carried.into_dispatch(),
        embedding.into_dispatch(),
        condition.into_dispatch(),
        block.dilated.0.into_dispatch(),
        block.dilated.1.into_dispatch(),
        block.embedding.0.into_dispatch(),
        block.embedding.1.into_dispatch(),
        block.condition.0.into_dispatch(),
        block.condition.1.into_dispatch(),
        block.output.0.into_dispatch(),
        block.output.1.into_dispatch(),
    ];
    Some(apply(inputs, dims))
}

pub(super) fn end(
    carried: Tensor<3>,
    scale: f64,
    [first, second]: [Convolution; 2],
    lanes: usize,
    slope: Slope,
) -> Option<Tensor<3>> {
    let [groups, twice, columns] = carried.dims();
    let channels = twice / 2;
    let fit = twice % 2 == 0
        && first.0.dims() == [channels, channels, 3]
        && second.0.dims() == [1, channels, 3]
        && columns > 4 * lanes
        && lanes > 0;
    if !fit || groups * channels == 0 || !is_f32_on_flex(&carried) || !is_f32_on_flex(&first.0) {
        return None;
    }
    let end = End { groups, channels, columns, lanes, scale: scale as f32, slope: slope.0 as f32 };
    let inputs = vec![
        carried.into_dispatch(),
        first.0.into_dispatch(),
        first.1.into_dispatch(),
        second.0.into_dispatch(),
        second.1.into_dispatch(),
    ];
    Some(apply(inputs, end))
}

const NAMES: [Operation; 2] = [Operation::Circle, Operation::CircleBackward];

impl Arithmetic for Start {
    fn names(&self) -> [Operation; 2] {
        NAMES
    }

    fn shape(&self) -> Shape {
        Shape::from([self.groups, 2 * self.channels, self.columns])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::start(self, inputs)
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::start_backward(self, inputs, dy).into_iter().map(Some).collect()
    }
}

impl Arithmetic for Block {
    fn names(&self) -> [Operation; 2] {
        NAMES
    }

    fn shape(&self) -> Shape {
        Shape::from([self.groups, 2 * self.channels, self.columns()])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::block(self, inputs)
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::block_backward(self, inputs, dy).into_iter().map(Some).collect()
    }
}

impl Arithmetic for End {
    fn names(&self) -> [Operation; 2] {
        NAMES
    }

    fn shape(&self) -> Shape {
        Shape::from([self.groups, 1, self.columns - 4 * self.lanes])
    }

    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32> {
        kernel::end(self, inputs)
    }

    fn backward(&self, inputs: &[&[f32]], dy: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        kernel::end_backward(self, inputs, dy).into_iter().map(Some).collect()
    }
}

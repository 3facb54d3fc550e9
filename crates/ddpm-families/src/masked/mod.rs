//! The family `masked`: networks that learn to fill in what is missing of multivariate series, CSDI (Tashiro et al. 2021) and
//! SSSD (Lopez Alcaraz & Strodthoff 2022).

pub mod foreign;
pub mod masks;
pub mod measure;
pub mod network;
pub mod preview;
mod sampling;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod trained;

use std::fmt;
use std::sync::Arc;

use burn::data::dataset::Dataset;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::random::{RngExt, Stream, normals, rng};
use ddpm_data::series::{Cell, WindowShape};
use ddpm_data::{Example, OpenData, StreamItem};
use ddpm_kernels::Precision;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::network::MemoryEstimate;
use ddpm_model::noise_level::per_row;
use ddpm_model::pass::Pass;
use toml::Table;

use self::masks::Observed;
use self::network::{Given, MaskedNetwork};
use self::tables::{LossMean, MaskedTables};
use self::trained::TrainedMasked;
use crate::family::stored::ModelCard;
use crate::family::trained::Trained;
use crate::family::{AnyError, Family, HeldOut, HeldOutSetup, Losses, Origin, Preview, PreviewSetup, Problem, Subject};

/// Models of masked series.
#[derive(Clone, Debug)]
pub struct MaskedFamily {
    tables: MaskedTables,
    diffusion: Arc<Diffusion>,
    /// Variables and steps of a window.
    shape: [usize; 2],
    patterns: Patterns,
    origin: Origin,
}

/// The training windows, whose missing cells other windows can have as well.
#[derive(Clone, Default)]
struct Patterns(Option<Arc<dyn Dataset<Example>>>);

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} windows", self.0.as_ref().map_or(0, |windows| windows.len()))
    }
}

impl Patterns {
    /// The observed cells of the window that a number from 0 to 1 chooses.
    fn chosen_by(&self, uniform: f64) -> Option<Vec<bool>> {
        let windows = self.0.as_ref().filter(|windows| !windows.is_empty())?;
        let chosen = ((uniform * windows.len() as f64) as usize).min(windows.len() - 1);
        let window = windows.get(chosen).ok()?.window?;
        Some(window.cells.iter().map(|cell| *cell == Cell::Observed).collect())
    }
}

/// Windows with every random number already drawn, `[B, K, L]`.
#[derive(Clone, Debug)]
pub struct MaskedBatch {
    /// The observed values, and 0 elsewhere.
    values: Tensor<3>,
    /// 1 where a value is given to the network.
    given: Tensor<3>,
    /// 1 where a value was observed and is not given.
    target: Tensor<3>,
    /// Which variables these are, `[B, K]`; none: all, in order.
    variables: Option<Tensor<2, Int>>,
    noise: Tensor<3>,
    /// The diffusion step of each window.
    times: Vec<usize>,
}

/// One window of a batch.
struct Row {
    values: Vec<f32>,
    observed: Vec<bool>,
    given: Vec<bool>,
    /// Which variables; all of them, unless some were chosen.
    variables: Vec<usize>,
}

impl MaskedFamily {
    /// The family for data of which only the description is known, or every reason why there is none.
    pub fn new(mut tables: MaskedTables, mut origin: Origin) -> Result<Self, Vec<Problem>> {
        if let (Some(window), [_, length]) = (tables.masked.window, &mut origin.data.shape[..]) {
            *length = window;
        }
        let problems = tables.problems_with_data(&origin.data);
        let shape = match origin.data.shape[..] {
            [variables, length] if problems.is_empty() => [variables, length],
            _ => return Err(problems),
        };
        tables.model = tables.model.with_data(shape, tables.diffusion.schedule.steps());
        let process =
            |error: ddpm_model::schedule::ScheduleError| vec![("diffusion.schedule".to_string(), error.to_string())];
        let diffusion = Arc::new(tables.diffusion.init().map_err(process)?);
        Ok(Self { tables, diffusion, shape, patterns: Patterns::default(), origin })
    }

    /// The chain of steps: others are refused when the tables are checked.
    fn chain(&self) -> &GaussianDiffusion {
        match &*self.diffusion {
            Diffusion::Discrete(chain) => chain,
            Diffusion::Continuous(_) => unreachable!("masked series have counted steps"),
        }
    }

    /// A window with what is hidden of it.
    fn row(&self, item: StreamItem, seed: u64) -> Row {
        let [variables, length] = self.shape;
        let StreamItem { example, place, .. } = item;
        let mut rng = rng(seed, Stream::Mask, place);
        let chosen = self.tables.masked.variables_per_item.filter(|chosen| *chosen < variables);
        let chosen = match chosen {
            Some(count) => choose(variables, count, &mut rng),
            None => (0..variables).collect(),
        };
        let is_observed = match &example.window {
            Some(window) => window.cells.iter().map(|cell| *cell == Cell::Observed).collect(),
            None => vec![true; variables * length],
        };
        let observed = rows_of(&is_observed, &chosen, length);
        let values = rows_of(&example.values, &chosen, length);
        let values = values.into_iter().zip(&observed).map(|(value, seen)| if *seen { value } else { 0.0 }).collect();
        let pattern = |uniform| Some(rows_of(&self.patterns.chosen_by(uniform)?, &chosen, length));
        let masks = &self.tables.masked.masks;
        let given = Observed { cells: &observed, variables: chosen.len(), rng }.given(masks, pattern);
        Row { values, observed, given, variables: chosen }
    }

    /// The batch of rows, with their noise and their steps.
    fn batch_of(&self, rows: Vec<Row>, noise: Vec<f32>, times: Vec<usize>, device: &Device) -> MaskedBatch {
        let count = rows.first().map_or(self.shape[0], |row| row.variables.len());
        let shape = [rows.len(), count, self.shape[1]];
        let tensor = |values: Vec<f32>| Tensor::<3>::from_data(TensorData::new(values, shape), device);
        let cells = |cell: &dyn Fn(&Row, usize) -> bool| {
            let size = shape[1] * shape[2];
            let of_row = |row| (0..size).map(move |place| f32::from(u8::from(cell(row, place))));
            tensor(rows.iter().flat_map(of_row).collect())
        };
        let variables = (count < self.shape[0]).then(|| {
            let numbers: Vec<i64> = rows.iter().flat_map(|row| row.variables.iter().map(|k| *k as i64)).collect();
            Tensor::<2, Int>::from_data(TensorData::new(numbers, [shape[0], count]), device)
        });
        MaskedBatch {
            given: cells(&|row, place| row.given[place]),
            target: cells(&|row, place| row.observed[place] && !row.given[place]),
            variables,
            noise: tensor(noise),
            times,
            values: tensor(rows.into_iter().flat_map(|row| row.values).collect()),
        }
    }

    /// The squared errors of a batch, summed over the targets of each row, and how many these are, `[B]` each.
    fn errors(&self, model: &MaskedNetwork, batch: &MaskedBatch, pass: &Pass<'_>) -> [Tensor<1>; 2] {
        let MaskedBatch { values, noise, times, target, .. } = batch;
        let chain = self.chain();
        let noisy = chain.q_sample(values.clone(), times, noise.clone());
        let wanted = chain.target(values, &noisy, noise, times);
        let given = Given { values: values.clone(), cells: batch.given.clone(), variables: batch.variables.clone() };
        let condition = model
            .condition(&given)
            .unwrap_or_else(|error| unreachable!("windows have the length that the network was checked for: {error}"));
        let steps: Vec<f64> = times.iter().map(|&t| t as f64).collect();
        let predicted = model.forward(noisy, &chain.network_times(&steps), &condition, pass);
        let errors = (predicted - wanted).square() * target.clone();
        [errors, target.clone()].map(|x| x.flatten::<2>(1, 2).sum_dim(1).squeeze_dim(1))
    }
}

/// So many of the variables, each set with the same probability.
fn choose(variables: usize, count: usize, rng: &mut ddpm_data::random::ChaCha8Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..variables).collect();
    for k in 0..count {
        all.swap(k, rng.random_range(k..variables));
    }
    all.truncate(count);
    all
}

/// The rows of these variables of `[K, L]`.
fn rows_of<T: Copy>(cells: &[T], variables: &[usize], length: usize) -> Vec<T> {
    variables.iter().flat_map(|variable| &cells[variable * length..(variable + 1) * length]).copied().collect()
}

impl Family for MaskedFamily {
    const NAME: &'static str = "masked";
    const ABOUT: &'static str = "imputation and forecasts of multivariate series (CSDI, SSSD)";
    const SECTIONS: &'static [(&'static str, &'static str)] = MaskedTables::SECTIONS;
    const MEASURES: &'static [(&'static str, &'static str)] = measure::NAMES;

    type Tables = MaskedTables;
    type Model = MaskedNetwork;
    type Batch = MaskedBatch;
    type Memory = ();

    fn read(tables: Table) -> Result<MaskedTables, String> {
        MaskedTables::read(tables)
    }

    fn problems(tables: &MaskedTables) -> Vec<Problem> {
        tables.problems()
    }

    fn resolve(tables: MaskedTables, subject: &Subject<'_>) -> Result<Self, Vec<Problem>> {
        let family = Self::new(tables, subject.origin())?;
        let windows = family.items(subject.data.clone()).items;
        if windows.is_empty() {
            let [_, length] = family.shape;
            let message = format!("is {length} steps, and no series of the training split is as long");
            return Err(vec![("masked.window".into(), message)]);
        }
        Ok(Self { patterns: Patterns(Some(windows)), ..family })
    }

    fn restored(tables: MaskedTables, origin: Origin) -> Result<Self, AnyError> {
        Self::new(tables, origin).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(|(key, message)| format!("{key}: {message}")).collect();
            problems.join("; ").into()
        })
    }

    fn tables(&self) -> &MaskedTables {
        &self.tables
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn init(&self, device: &Device) -> MaskedNetwork {
        self.tables.model.init(device).unwrap_or_else(|error| unreachable!("the network was checked: {error}"))
    }

    fn set_precision(&self, model: &mut MaskedNetwork, precision: Precision) {
        model.set_precision(precision);
    }

    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate {
        let [variables, length] = self.shape;
        let variables = self.tables.masked.variables_per_item.unwrap_or(variables);
        MemoryEstimate::of(parameters, self.tables.model.kept_values([variables, length]), batch)
    }

    /// Windows of the length that the network is for.
    fn items(&self, data: OpenData) -> OpenData {
        let length = self.shape[1];
        match &data.series {
            Some(set) => {
                set.windows(WindowShape { stride: self.tables.masked.stride, ..WindowShape::of_length(length) })
            }
            None => data,
        }
    }

    fn batch(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> MaskedBatch {
        let steps = self.chain().schedule.len();
        let size = self.tables.masked.variables_per_item.unwrap_or(self.shape[0]) * self.shape[1];
        let noise = items.iter().flat_map(|item| normals(&mut rng(seed, Stream::Noise, item.place), size)).collect();
        let times = items.iter().map(|item| rng(seed, Stream::Time, item.place).random_range(0..steps)).collect();
        let rows = items.into_iter().map(|item| self.row(item, seed)).collect();
        self.batch_of(rows, noise, times, device)
    }

    fn to_device(&self, batch: MaskedBatch, device: &Device) -> MaskedBatch {
        MaskedBatch {
            values: batch.values.to_device(device),
            given: batch.given.to_device(device),
            target: batch.target.to_device(device),
            variables: batch.variables.map(|variables| variables.to_device(device)),
            noise: batch.noise.to_device(device),
            times: batch.times,
        }
    }

    /// The weighted squared error of what is predicted of the targets.
    fn losses(&self, model: &MaskedNetwork, batch: &MaskedBatch, pass: &Pass<'_>) -> Losses {
        let [errors, counts] = self.errors(model, batch, pass);
        let per_cell = errors.clone() / counts.clone().clamp_min(1.0);
        let weights = self.chain().weights(self.tables.diffusion.weighting, &batch.times);
        let weighted = |rows: &Tensor<1>| per_row(&weights, rows) * rows.clone();
        let loss = match self.tables.masked.mean {
            LossMean::Cells => weighted(&errors).sum() / counts.sum().clamp_min(1.0),
            LossMean::Windows => weighted(&per_cell).mean(),
        };
        Losses { loss, rows: per_cell.detach(), parts: Vec::new() }
    }

    fn times(&self, batch: &MaskedBatch) -> Vec<f64> {
        batch.times.iter().map(|&t| t as f64).collect()
    }

    fn first_memory(&self) {}

    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<MaskedNetwork>>, AnyError> {
        Ok(Box::new(measure::ErrorsOfHeldOut::read(self, setup)?))
    }

    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<MaskedNetwork>>, AnyError> {
        Ok(Box::new(preview::ImputationPreview::read(self, setup)?))
    }

    fn trained(self, model: MaskedNetwork, card: ModelCard) -> Box<dyn Trained> {
        Box::new(TrainedMasked::new(self, model, card))
    }
}

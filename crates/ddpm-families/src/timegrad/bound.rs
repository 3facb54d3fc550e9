//! The variational bound of a forecast: of the values of each step given all before it, as they were.

use burn::tensor::Tensor;
use ddpm_data::Example;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;

use super::tables::Scaling;
use super::trained::TrainedTimeGrad;
use crate::family::AnyError;
use crate::family::trained::{BoundDraw, Forecast, ScoredPart, SeriesBound, SeriesBoundTerms, Stretch};
use crate::series_bound::Scored;

impl SeriesBound for TrainedTimeGrad {
    fn usual(&self) -> ScoredPart {
        ScoredPart::Horizon(self.usual_horizon())
    }

    fn series_bound(
        &self,
        stretches: &[Stretch<'_>],
        part: ScoredPart,
        draw: &BoundDraw,
    ) -> Result<Vec<SeriesBoundTerms>, AnyError> {
        let ScoredPart::Horizon(horizon @ 1..) = part else {
            return Err("the model forecasts: expected a horizon of at least 1 step".into());
        };
        let mut found = Vec::with_capacity(stretches.len());
        for stretches in stretches.chunks(draw.at_once.max(1)) {
            let item = |stretch: &Stretch<'_>| {
                let end = stretch.end.checked_sub(horizon).filter(|end| *end >= stretch.start);
                let end = end.ok_or_else(|| format!("a stretch is shorter than the horizon of {horizon} steps"))?;
                self.item(stretch, end, horizon)
            };
            let items = stretches.iter().map(item).collect::<Result<Vec<_>, AnyError>>()?;
            let numbers = stretches.iter().map(|stretch| stretch.number).collect();
            found.extend(self.bound_of(&items, horizon, numbers, draw.seed)?);
        }
        Ok(found)
    }
}

impl TrainedTimeGrad {
    fn chain(&self) -> Result<&GaussianDiffusion, AnyError> {
        match &*self.family.diffusion {
            Diffusion::Discrete(chain) => Ok(chain),
            Diffusion::Continuous(_) => Err("the bound is a sum over counted steps, and this model has none".into()),
        }
    }

    /// The terms of the last `horizon` steps of items.
    fn bound_of(
        &self,
        items: &[Example],
        horizon: usize,
        numbers: Vec<u64>,
        seed: u64,
    ) -> Result<Vec<SeriesBoundTerms>, AnyError> {
        let chain = self.chain()?;
        let windows = self.family.reader.windows(&items.iter().collect::<Vec<_>>(), horizon, &self.device);
        let scale = self.family.scale(&self.model, &windows);
        let (rows, variables) = (items.len(), self.family.reader.network.variables);
        let steps = self.family.reader.network.context_length + horizon;
        // The steps of the horizon as rows.
        let of_horizon = |x: Tensor<3>| {
            let width = x.dims()[2];
            x.reshape([rows, steps, width]).narrow(1, steps - horizon, horizon).reshape([rows * horizon, 1, width])
        };
        let read = self.model.read(&windows, scale).ok_or("a window without the values of its horizon")?;
        let targets = self.model.targets(&windows, &read.scale).map(of_horizon);
        let observed = self.model.observed(&windows).map(of_horizon);
        let (Some(x_0), Some(observed)) = (targets, observed) else { return Ok(Vec::new()) };
        // All variables of a step have one density.
        let mask = observed.clone().min_dim(2).expand([rows * horizon, 1, variables]);
        let scored = Scored { x_0, mask, numbers };
        let given = self.model.denoiser().given(of_horizon(read.conditions));
        let network = |x: Tensor<3>, t: usize| self.model.denoiser().forward_given(x, &[t as f64], &given);
        let mut terms = scored.terms(chain, seed, network);
        let known = host(observed.reshape([rows, horizon * variables]).sum_dim(1));
        let scales = host(read.scale.log());
        for (row, terms) in terms.iter_mut().enumerate() {
            let logs = &scales[row * variables..(row + 1) * variables];
            let of_step: f64 = (0..variables).map(|variable| logs[variable] + self.log_unit(variable)).sum();
            terms.left_out = (known[row].round() as usize).saturating_sub(terms.values);
            terms.log_scale = of_step * (terms.values / variables) as f64;
        }
        Ok(terms)
    }

    /// The logarithm of what a variable was divided by before the network sees it, its scale aside.
    fn log_unit(&self, variable: usize) -> f64 {
        match self.family.reader.scaling {
            Scaling::Standard => self.family.reader.data.units.scale[variable].ln(),
            Scaling::Mean | Scaling::None => 0.0,
        }
    }
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

//! The variational bound of what is hidden of windows, given the rest.

use burn::tensor::{Tensor, TensorData};
use ddpm_data::StreamItem;
use ddpm_data::series::Cell;
use ddpm_model::pass::Pass;

use super::network::Given;
use super::trained::TrainedMasked;
use super::{MaskedFamily, Row};
use crate::family::AnyError;
use crate::family::trained::{BoundDraw, ScoredPart, SeriesBound, SeriesBoundTerms, Stretch};
use crate::series_bound::Scored;

impl SeriesBound for TrainedMasked {
    fn usual(&self) -> ScoredPart {
        ScoredPart::Window(self.family.shape[1])
    }

    fn series_bound(
        &self,
        stretches: &[Stretch<'_>],
        part: ScoredPart,
        draw: &BoundDraw,
    ) -> Result<Vec<SeriesBoundTerms>, AnyError> {
        self.check_part(part)?;
        let family = self.family.clone().of_all_variables();
        let row = |stretch: &Stretch<'_>| self.scored_row(&family, stretch, part, draw.seed);
        let rows = stretches.iter().map(row).collect::<Result<Vec<Row>, AnyError>>()?;
        let mut found: Vec<SeriesBoundTerms> = rows.iter().map(left_out).collect();
        // The network predicts all cells of a window together: there is no density of some of them.
        let whole: Vec<usize> = (0..rows.len()).filter(|row| is_whole(&rows[*row])).collect();
        for chosen in whole.chunks(draw.at_once.max(1)) {
            let numbers = chosen.iter().map(|row| stretches[*row].number).collect();
            let of_chosen: Vec<&Row> = chosen.iter().map(|row| &rows[*row]).collect();
            for (row, terms) in chosen.iter().zip(self.bound_of(&of_chosen, numbers, draw.seed)?) {
                found[*row] = terms;
            }
        }
        Ok(found)
    }
}

impl TrainedMasked {
    fn check_part(&self, part: ScoredPart) -> Result<(), AnyError> {
        let length = self.family.shape[1];
        match part {
            ScoredPart::Window(steps) if steps != length => {
                Err(format!("a window of {steps} steps: expected {length}, as the model was trained on").into())
            }
            ScoredPart::Horizon(_) if self.family.tables.model.is_unconditional() => {
                Err("the network is given nothing: only the density of whole windows has a bound, without a horizon"
                    .into())
            }
            ScoredPart::Horizon(horizon) if !(1..length).contains(&horizon) => {
                Err(format!("a horizon of {horizon} steps: expected 1 to {}, with windows of {length}", length - 1)
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// The last steps of a stretch as a window, with what is given of it.
    fn scored_row(
        &self,
        family: &MaskedFamily,
        stretch: &Stretch<'_>,
        part: ScoredPart,
        seed: u64,
    ) -> Result<Row, AnyError> {
        self.check(stretch.series)?;
        let length = family.shape[1];
        let start = stretch.end as i64 - length as i64;
        let mut example = family.origin.data.window(stretch.series, start, length);
        for (place, cell) in example.window.iter_mut().flat_map(|window| window.cells.iter_mut().enumerate()) {
            if start + ((place % length) as i64) < stretch.start as i64 {
                *cell = Cell::NeverObserved;
            }
        }
        let mut row = family.row(StreamItem { example, place: stretch.number, augment_labels: None }, seed);
        match part {
            _ if family.tables.model.is_unconditional() => row.given.fill(false),
            ScoredPart::Window(_) => {}
            ScoredPart::Horizon(horizon) => {
                let is_given = |(place, observed): (usize, &bool)| *observed && place % length < length - horizon;
                row.given = row.observed.iter().enumerate().map(is_given).collect();
            }
        }
        Ok(row)
    }

    /// The terms of what is not given of windows of which everything was observed.
    fn bound_of(&self, rows: &[&Row], numbers: Vec<u64>, seed: u64) -> Result<Vec<SeriesBoundTerms>, AnyError> {
        let [variables, length] = self.family.shape;
        let shape = [rows.len(), variables, length];
        let tensor = |values: Vec<f32>| Tensor::<3>::from_data(TensorData::new(values, shape), &self.device);
        let x_0 = tensor(rows.iter().flat_map(|row| row.values.iter().copied()).collect());
        let given = rows.iter().flat_map(|row| row.given.iter().map(|given| f32::from(u8::from(*given))));
        let statics = self.family.statics(rows.iter().map(|row| &row.statics[..]), &self.device);
        let given = Given { values: x_0.clone(), cells: tensor(given.collect()), variables: None, statics };
        let (condition, chain) = (self.model.condition(&given)?, self.family.chain());
        let scored = Scored { x_0, mask: given.missing(), numbers };
        let network = |x: Tensor<3>, t: usize| {
            let times = chain.network_times(&vec![t as f64; rows.len()]);
            self.model.forward(x, &times, &condition, &Pass::default())
        };
        let mut terms = scored.terms(chain, seed, network);
        let scales = &self.family.origin.data.units.scale;
        for (row, terms) in rows.iter().zip(&mut terms) {
            let missing = row.given.iter().enumerate().filter(|(_, given)| !**given);
            terms.log_scale = missing.map(|(place, _)| scales[place / length].ln()).sum();
        }
        Ok(terms)
    }
}

fn is_whole(row: &Row) -> bool {
    row.observed.iter().all(|observed| *observed)
}

/// Nothing is scored, and what is hidden is left out.
fn left_out(row: &Row) -> SeriesBoundTerms {
    let hidden = row.observed.iter().zip(&row.given).filter(|(observed, given)| **observed && !**given);
    SeriesBoundTerms { left_out: hidden.count(), ..SeriesBoundTerms::default() }
}

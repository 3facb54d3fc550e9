//! Data-parallel training: the parts of a batch on several devices at once, by Burn's own engine.

use std::fmt::Display;

use burn::data::dataloader::{DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use burn_train::train::MultiDevicesTrainStep;
use burn_train::{Learner, TrainOutput};

use crate::train_step::{StepReport, TrainBatch, TrainModel};

/// Where the parts of a batch are computed.
pub(crate) enum Workers {
    /// Here, one after the other.
    One,
    /// Each part on a device of its own. The weights go out to all of them, and their gradients come back to the first.
    Several {
        /// The devices, with autodiff.
        devices: Vec<Device>,
        /// A thread for each of them.
        step: Box<MultiDevicesTrainStep<TrainModel>>,
    },
}

impl Workers {
    /// Workers on these devices, the first of which is the main one.
    pub(crate) fn new(devices: &[Device]) -> Self {
        match devices {
            [] | [_] => Self::One,
            several => Self::Several { devices: several.to_vec(), step: Box::new(MultiDevicesTrainStep::new(several)) },
        }
    }

    /// How many parts are computed at once.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::One => 1,
            Self::Several { devices, .. } => devices.len(),
        }
    }

    /// Losses and gradients of [as many](Self::count) parts as there are workers, on the main device and in the order of
    /// the parts, so that they add up to the same bits in every run.
    pub(crate) fn compute(
        &self,
        learner: &Learner<TrainModel>,
        parts: Vec<TrainBatch>,
    ) -> Result<Vec<TrainOutput<StepReport>>, impl Display + use<>> {
        let Self::Several { devices, step } = self else {
            return Ok(parts.into_iter().map(|part| learner.train_step(part)).collect());
        };
        let mut given: Vec<Box<dyn DataLoaderIterator<TrainBatch>>> = Vec::with_capacity(parts.len());
        for (part, device) in parts.into_iter().zip(devices) {
            given.push(Box::new(Once(Some(part.on(device, learner.model().family())))));
        }
        let (outputs, _) = step.step(&mut given, &learner.model())?;
        // They come as they are done.
        let mut outputs: Vec<_> = outputs.into_iter().map(|one| one.output).collect();
        outputs.sort_by_key(|output| output.item.first_item);
        let main = &devices[0];
        for output in &mut outputs {
            output.grads = std::mem::take(&mut output.grads).to_device(main, &learner.model());
        }
        Ok::<_, burn_train::train::MultiDeviceStepError>(outputs)
    }
}

/// A loader of one batch.
struct Once(Option<TrainBatch>);

impl Iterator for Once {
    type Item = Result<TrainBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl DataLoaderIterator<TrainBatch> for Once {
    fn progress(&self) -> Progress {
        Progress::new(usize::from(self.0.is_none()), 1, None)
    }
}

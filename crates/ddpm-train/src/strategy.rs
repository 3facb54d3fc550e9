//! The step loop as a training strategy of burn-train, with all that it needs besides the `Learner`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use burn_train::{
    EventProcessorTraining, Learner, LearnerEvent, SupervisedLearningStrategy, SupervisedTrainingEventProcessor,
    TrainLoader, TrainingComponents, ValidLoader,
};
use ddpm_data::ReadingSpeed;
use ddpm_families::family::any_module::AnyModule;
use ddpm_families::family::erased::{AnyFamily, Memory};
use ddpm_families::family::{HeldOut, Preview};
use ddpm_files::runs::{RunFolder, step_name, width_name};
use ddpm_kernels::among_the_kernels;

use crate::checkpoint::TrainState;
use crate::clip_and_average::ema_update;
use crate::config::Experiment;
use crate::progress::Reporter;
use crate::step_loop::{Loop, due};
use crate::train_error::TrainError;
use crate::train_step::TrainModel;
use crate::trained_part::ema_update_of_trained;

/// What the loop leaves behind; `fit` can only return the model.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counters after the last step.
    pub state: TrainState,
    /// Why it stopped early, unless it was asked to.
    pub error: Option<TrainError>,
    /// The smoothed loss and its lowest value, if the run has diverged.
    pub diverged: Option<[f64; 2]>,
}

/// The step loop with all it needs besides the `Learner`.
pub struct StepStrategy {
    /// The resolved experiment.
    pub experiment: Experiment,
    /// What is trained, and how.
    pub family: Arc<dyn AnyFamily>,
    /// Where everything goes.
    pub run: RunFolder,
    /// Whose checkpoints they are: experiment and beginning of the run.
    pub origin: String,
    /// The devices, with autodiff; the first of them is the main one.
    pub devices: Vec<Device>,
    /// Counters to begin from.
    pub state: TrainState,
    /// What the family remembers of the steps before.
    pub memory: Memory,
    /// The averaged weights to begin from; with the parameter ids of the trained ones.
    pub ema: TrainModel,
    /// The averages that are kept besides, with their widths; likewise.
    pub post_hoc: Vec<(f64, TrainModel)>,
    /// How fast the data are read.
    pub reading: Arc<ReadingSpeed>,
    /// Makes images, unless there are to be none.
    pub preview: Option<Box<dyn Preview<AnyModule>>>,
    /// Measures held-out data.
    pub held_out: Option<Box<dyn HeldOut<AnyModule>>>,
    /// Whether a step that is not finite is computed once more, to find where that begins.
    pub detect_anomaly: bool,
    /// Says what happens.
    pub reporter: Reporter,
    /// Takes the result.
    pub outcome: Arc<Mutex<Outcome>>,
}

impl SupervisedLearningStrategy<TrainModel> for StepStrategy {
    fn fit(
        &self,
        mut parts: TrainingComponents<TrainModel>,
        mut learner: Learner<TrainModel>,
        train: TrainLoader<TrainModel>,
        _valid: ValidLoader<TrainModel>,
        epoch: usize,
    ) -> (TrainModel, SupervisedTrainingEventProcessor<TrainModel>) {
        let total_items = self.experiment.train.steps as usize;
        let start = LearnerEvent::StartSplit { epoch_number: epoch, total_items };
        parts.interrupter.fail_on_error(parts.event_processor.process_train(start));

        let mut run = Loop::new(self);
        let error = run.run(&mut parts, &mut learner, &train).err();

        parts.interrupter.fail_on_error(parts.event_processor.process_train(LearnerEvent::EndSplit(epoch)));
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = run.outcome(error);
        (learner.model(), parts.event_processor)
    }
}

impl StepStrategy {
    /// Brings an average of the weights up to date after a step.
    pub(crate) fn average(&self, average: &mut TrainModel, model: &TrainModel, decay: f64) {
        among_the_kernels(&self.devices[0], || match self.experiment.fine_tune.is_everything() {
            true => ema_update(average, model, decay),
            false => ema_update_of_trained(average, model, decay),
        });
    }
}

/// Says that the loss runs away, and what may be at fault.
pub fn divergence_words([now, lowest]: [f64; 2], learning_rate: f64) -> String {
    format!(
        "the run diverges: the smoothed loss is {now:.3e}, and was {lowest:.3e} at its lowest; the learning rate is \
         {learning_rate:e}, and a lower optimizer.learning_rate may hold"
    )
}

/// Whether the snapshot, and the averages, that are due after a step are not there.
pub fn missing_weights(run: &RunFolder, experiment: &Experiment, step: u64) -> [bool; 2] {
    let is_due = |every| step > 0 && (step >= experiment.train.steps || due(step, every));
    let is_missing = |dir: PathBuf| !dir.join(step_name(step)).exists();
    let post_hoc = experiment.ema.post_hoc.as_ref().filter(|post_hoc| is_due(post_hoc.every));
    let mut averages = post_hoc.into_iter().flat_map(|post_hoc| &post_hoc.widths);
    [
        is_due(experiment.train.snapshot_every) && is_missing(run.snapshots()),
        averages.any(|width| is_missing(run.averages().join(width_name(*width)))),
    ]
}

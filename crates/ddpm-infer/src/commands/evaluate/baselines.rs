//! Simpler models of the same data, fitted to the train split: what a model with a latent must beat.

use ddpm_console::say;
use ddpm_data::Split;
use ddpm_eval::bernoulli_mixture::{BernoulliMixture, MixtureFit};
use ddpm_eval::metrics::{Evaluation, Measurement};
use ddpm_eval::pca::Pca;
use ddpm_eval::probabilistic_pca::ProbabilisticPca;
use ddpm_eval::sources::GAUSSIAN_VALUES;
use ddpm_eval::{EvaluationError, Features};
use ddpm_families::family::trained::LikelihoodOf;

use super::models::FamilyModel;
use super::reconstructions::{about, errors, evaluation, in_units_of_errors};
use crate::commands::given_items::{Items, of_split};

/// Values of the train split, and items of it, that are fitted at most: more would hardly change a fit.
const FITTED: usize = 1 << 25;
const FITTED_ITEMS: usize = 100_000;

/// Numbers of components of a principal component analysis where the latent has more.
const COMPONENTS: [usize; 5] = [2, 4, 8, 16, 32];

/// Components of the Bernoulli mixtures.
const MIXTURES: [usize; 2] = [10, 50];

/// Values of all items times components, over all restarts of a mixture.
const MIXTURE_WORK: usize = 1 << 28;

/// The models that are comparable with this one, on the items that it reconstructs.
pub(super) fn evaluate(model: &FamilyModel, items: &Items) -> anyhow::Result<Vec<Evaluation>> {
    let card = model.trained.card();
    if card.source.is_none() {
        say!("no baselines: {} does not record its training data", model.weights.path.display());
        return Ok(Vec::new());
    }
    let most = (FITTED / card.data.values_per_item()).clamp(1, FITTED_ITEMS);
    let train = of_split(card, &model.weights.path, Split::Train, most)?;
    let unit = |items: &Items| in_units_of_errors(&items.values, &card.data);
    let baselines = Baselines {
        train: unit(&train),
        test: unit(items),
        is_image: card.data.is_image(),
        about: format!("{}; fitted to {} of {}", about(items), train.count, train.from),
        items,
    };
    let latent = model.trained.encode().map(|encoder| encoder.latent_shape().iter().product());
    let likelihood = model.trained.bound().map(|bound| bound.likelihood_of());
    say!("fitting baselines to {} of {}", train.count, train.from);
    let mut all = Vec::new();
    if card.data.values_per_item() <= GAUSSIAN_VALUES {
        let pca = Pca::fit(&baselines.train)?;
        all.extend(baselines.principal_components(&pca, latent)?);
        if let (Some(LikelihoodOf::Density), Some(latent)) = (likelihood, latent) {
            all.extend(baselines.probabilistic_pca(&pca, latent)?);
        }
    }
    if likelihood == Some(LikelihoodOf::BinaryValues) {
        all.extend(baselines.of_binary_values()?);
    }
    Ok(all)
}

/// What baselines are fitted to and measured on.
struct Baselines<'a> {
    train: Features,
    test: Features,
    is_image: bool,
    /// What names of measurements say of the items.
    about: String,
    items: &'a Items,
}

impl Baselines<'_> {
    /// Reconstructions by principal components: as many as the latent has numbers, and fewer.
    fn principal_components(&self, pca: &Pca, latent: Option<usize>) -> anyhow::Result<Vec<Evaluation>> {
        let width = self.test.width();
        let mut numbers: Vec<usize> = COMPONENTS
            .into_iter()
            .filter(|number| latent.is_none_or(|latent| *number < latent))
            .chain(latent)
            .collect();
        numbers.retain(|number| *number < width);
        let one = |components: usize| {
            let found = pca.reconstruct(&self.test, components)?;
            let measured = errors(&self.test, &found, self.is_image, &self.about)?;
            Ok(evaluation(format!("PCA, {}", counted(components, "component")), self.items, measured))
        };
        numbers.into_iter().map(one).collect()
    }

    /// The exact density of the linear model with the same latent.
    fn probabilistic_pca(&self, pca: &Pca, latent: usize) -> anyhow::Result<Option<Evaluation>> {
        let model = match ProbabilisticPca::of_components(pca, latent) {
            Ok(model) => model,
            // As many dimensions as values, or none of them with noise.
            Err(error @ EvaluationError::Argument { .. }) => {
                say!("no probabilistic PCA: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let likelihoods = model.log_likelihoods(&self.test)?;
        let mean = likelihoods.iter().sum::<f64>() / likelihoods.len() as f64;
        Ok(Some(self.likelihood(format!("probabilistic PCA, {}", counted(latent, "dimension")), -mean)))
    }

    /// Probabilities of black and white.
    fn of_binary_values(&self) -> anyhow::Result<Vec<Evaluation>> {
        let is_binary = |items: &Features| items.values().iter().all(|value| *value == 0.0 || *value == 1.0);
        if !is_binary(&self.train) || !is_binary(&self.test) {
            say!("no Bernoulli baselines: the data are not binarized (data.binarize)");
            return Ok(Vec::new());
        }
        let independent = BernoulliMixture::independent(&self.train)?.negative_log_likelihood(&self.test)?;
        let mut all = vec![self.likelihood("independent pixels".into(), independent)];
        for components in MIXTURES.into_iter().filter(|components| *components <= self.train.len()) {
            let usual = MixtureFit::new(components);
            let work = self.train.values().len() * components;
            let fit = MixtureFit { restarts: (MIXTURE_WORK / work).clamp(1, usual.restarts), ..usual };
            let found = BernoulliMixture::fit(&self.train, &fit)?.negative_log_likelihood(&self.test)?;
            all.push(self.likelihood(format!("Bernoulli mixture, {}", counted(components, "component")), found));
        }
        Ok(all)
    }

    /// The evaluation of a model by its likelihood, which is exact.
    fn likelihood(&self, of: String, nats: f64) -> Evaluation {
        let metric = "-ln p(x), nats".to_string();
        let name = format!("{metric} ({})", self.about);
        evaluation(of, self.items, vec![Measurement { metric, name, value: nats, deviation: None }])
    }
}

/// Such as `1 component` and `8 components`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

//! Losses by noise level: four parts of the training times that are drawn equally often.
//!
//! The loss of a batch hides what is learned: it differs by orders of magnitude between little and much noise.

use ddpm_model::diffusion::Diffusion;

/// The standard normal distribution is below this a quarter of the time, and above minus this.
const NORMAL_QUARTILE: f64 = -0.674_489_750_196_081_7;

/// Three times that cut the training times into four parts, from little noise to much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles([f64; 3]);

impl Quartiles {
    /// Those of the times that `diffusion` is trained at, as they are drawn without importance.
    pub fn of(diffusion: &Diffusion) -> Self {
        let quarters = [(0.25, NORMAL_QUARTILE), (0.5, 0.0), (0.75, -NORMAL_QUARTILE)];
        let mut edges = match diffusion {
            Diffusion::Discrete(diffusion) => quarters.map(|(share, _)| share * diffusion.schedule.len() as f64),
            Diffusion::Continuous(diffusion) => {
                quarters.map(|(uniform, normal)| diffusion.times.draw(diffusion.path, uniform, normal))
            }
        };
        edges.sort_by(f64::total_cmp);
        Self(edges)
    }

    /// The part that a time lies in, from 0.
    pub fn index(&self, time: f64) -> usize {
        self.0.iter().filter(|&&edge| time >= edge).count()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::snapshot::DiffusionConfig;
    use ddpm_data::random::{Stream, normals, rng};

    use super::*;

    fn diffusion(config: serde_json::Value) -> Diffusion {
        serde_json::from_value::<DiffusionConfig>(config).unwrap().init().unwrap()
    }

    #[test]
    fn steps_are_cut_into_even_parts() {
        let quartiles = Quartiles::of(&diffusion(serde_json::json!({"schedule": {"kind": "linear", "steps": 8}})));
        let parts: Vec<usize> = (0..8).map(|step| quartiles.index(f64::from(step))).collect();
        assert_eq!(parts, [0, 0, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn continuous_times_are_cut_where_a_quarter_is_drawn() {
        let config = |times: serde_json::Value| {
            diffusion(serde_json::json!({"continuous": {
                "path": {"kind": "ve", "sigma_min": 0.005, "sigma_max": 80.0}, "prediction": "edm",
                "sigma_data": 2.0, "times": times}}))
        };
        for times in [
            serde_json::json!({"kind": "log-normal", "mean": 0.0, "deviation": 1.6}),
            serde_json::json!({"kind": "uniform"}),
        ] {
            let diffusion = config(times);
            let Diffusion::Continuous(process) = &diffusion else { panic!("not continuous") };
            let quartiles = Quartiles::of(&diffusion);
            let mut counts = [0_u32; 4];
            for normal in normals(&mut rng(3, Stream::Time, 0), 4000) {
                // The distribution function of the normal one, by its logistic approximation, good to 2 %.
                let uniform = 1.0 / (1.0 + (-1.702 * f64::from(normal)).exp());
                counts[quartiles.index(process.times.draw(process.path, uniform, f64::from(normal)))] += 1;
            }
            assert!(counts.iter().all(|count| count.abs_diff(1000) < 120), "{counts:?}");
        }
    }
}

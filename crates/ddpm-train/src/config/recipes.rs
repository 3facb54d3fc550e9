//! The recipes of `experiments/`, carried by the program: a copy of it needs no checkout.

/// An experiment that comes with the program.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What `--experiment` calls it.
    pub name: &'static str,
    /// Its TOML.
    pub text: &'static str,
}

macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        /// All of them, by name.
        pub const RECIPES: &[Recipe] = &[$(Recipe {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/", $name, ".toml")),
        },)*];
    };
}

recipes!(
    "cifar10",
    "digits",
    "digits-autoencoder",
    "digits-beta-vae",
    "digits-edm",
    "digits-flow",
    "digits-hvae",
    "digits-hvae-grey",
    "digits-improved",
    "digits-vae",
    "ecg-sssd",
    "electricity-timegrad",
    "exchange-timegrad",
    "forecast-bimodal-timegrad",
    "mnist",
    "mujoco-sssd",
    "physionet-csdi",
    "points-edm",
    "points-flow",
    "points-ncsn",
    "points-score-sde",
    "points-swiss-roll",
    "points-vae",
    "shapes-autoencoder",
    "shapes-dit",
    "shapes-text",
    "shapes-words",
    "sines-csdi",
    "sines-csdi-long",
    "sprites-autoencoder-kl",
    "sprites-beta-vae",
    "weather-csdi",
    "weather-timegrad",
);

impl Recipe {
    /// The one of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        RECIPES.iter().find(|recipe| recipe.name == name)
    }

    /// The first sentence of the comment that it begins with.
    pub fn about(&self) -> String {
        let comment = self.text.lines().map_while(|line| line.strip_prefix("# ")).collect::<Vec<_>>().join(" ");
        let end = comment.match_indices(['.', ':']).map(|(at, _)| at).find(|at| ends_a_sentence(&comment[..*at]));
        end.map_or(comment.clone(), |end| comment[..end].to_string())
    }
}

/// Whether a full stop here is one, rather than that of "et al.".
fn ends_a_sentence(before: &str) -> bool {
    !before.ends_with(" al")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_of_the_folder_is_carried() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = names
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, RECIPES.iter().map(|recipe| recipe.name).collect::<Vec<_>>());
    }

    #[test]
    fn recipes_say_what_they_are() {
        assert_eq!(Recipe::find("digits").unwrap().about(), "Handwritten digits, 8x8, class-conditional");
        for recipe in RECIPES {
            assert!((10..140).contains(&recipe.about().len()), "{}: {}", recipe.name, recipe.about());
        }
    }
}

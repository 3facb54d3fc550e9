//! From a TOML file and `--set a.b=c` to an [`Experiment`], with every problem reported at once.

use std::fmt;
use std::path::{Path, PathBuf};

use ddpm_console::settings::{expand_kinds, in_words, insert, missing_key, parse_set, remove, unknown_key, value_mut};
use ddpm_data::with_home;
use ddpm_families::family::erased::{FamilyKind, minimal};
use ddpm_families::family::registry::{default_family, family};
use serde::Deserialize;
use toml::{Table, Value};

use super::hints::hint;
use super::recipes::{RECIPES, Recipe};
use super::{Experiment, SECTIONS};

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The key, dotted; empty where the whole file is meant.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// Whether the key was given by `--set` rather than by the file.
    pub from_set: bool,
}

/// All that is wrong with an experiment.
#[derive(Debug)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong in it; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "{}: {count} problem{}", self.file.display(), if count == 1 { "" } else { "s" })?;
        for Problem { key, message, from_set } in &self.problems {
            let place = if *from_set { "--set " } else { "" };
            let colon = if key.is_empty() { "" } else { ": " };
            write!(f, "\n  {place}{key}{colon}{message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// One problem with the file as a whole.
    fn of_all(file: &Path, message: String) -> Self {
        Self { file: file.to_path_buf(), problems: vec![Problem { key: String::new(), message, from_set: false }] }
    }
}

/// Where an experiment comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A recipe that the program carries.
    BuiltIn(&'static Recipe),
    /// What follows from a file of data.
    OfData {
        /// The file.
        path: PathBuf,
        /// What runs are called after it.
        name: String,
        /// The TOML.
        text: String,
    },
    /// TOML of a program that trains by itself.
    Text {
        /// What runs are called after it.
        name: String,
        /// The TOML.
        text: String,
    },
}

impl Source {
    /// Finds what `--experiment NAME|FILE.toml` names: a file, or a name, which is looked for in `experiments/` of the
    /// current folder and of the folders above it, and then among the recipes that the program carries.
    pub fn find(name: &str) -> Result<Self, ConfigError> {
        let direct = PathBuf::from(name);
        if direct.extension().is_some_and(|extension| extension == "toml") || direct.is_file() {
            return Ok(Self::File(direct));
        }
        let here = std::env::current_dir().unwrap_or_default();
        let mut files = here.ancestors().map(|dir| dir.join("experiments").join(format!("{name}.toml")));
        if let Some(file) = files.find(|file| file.is_file()) {
            return Ok(Self::File(file));
        }
        Recipe::find(name).map(Self::BuiltIn).ok_or_else(|| {
            let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
            let known = known.join(", ");
            let message = format!("there is no experiment of that name; there are: {known}; a file must end in .toml");
            ConfigError { file: direct, problems: vec![Problem { key: String::new(), message, from_set: false }] }
        })
    }

    /// What messages call it.
    pub fn file(&self) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            Self::BuiltIn(recipe) => format!("{} (built in)", recipe.name).into(),
            Self::OfData { path, .. } => format!("the experiment for {}", path.display()).into(),
            Self::Text { name, .. } => format!("{name} (in the program)").into(),
        }
    }

    /// What runs are called after it.
    pub fn name(&self) -> String {
        match self {
            Self::File(file) => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            Self::BuiltIn(recipe) => recipe.name.into(),
            Self::OfData { name, .. } | Self::Text { name, .. } => name.clone(),
        }
    }

    /// The family that it names; the default one where the file cannot be read, which [`load`](Self::load) then says.
    pub fn family(&self, sets: &[String]) -> &'static dyn FamilyKind {
        kind_of(&self.tree(sets)).unwrap_or_else(|_| default_family())
    }

    /// The snapshot or pipeline in `fine_tune.from`, if it names one.
    pub fn fine_tune_from(&self, sets: &[String]) -> Option<PathBuf> {
        let tree = self.tree(sets);
        let from = tree.get("fine_tune")?.get("from")?.as_str()?;
        Some(with_home(Path::new(from)))
    }

    /// What it says, as far as it can be read.
    fn tree(&self, sets: &[String]) -> Table {
        let text = match self {
            Self::BuiltIn(recipe) => recipe.text.to_string(),
            Self::OfData { text, .. } | Self::Text { text, .. } => text.clone(),
            Self::File(path) => std::fs::read_to_string(path).unwrap_or_default(),
        };
        let mut tree: Table = text.parse().unwrap_or_default();
        for (key, value) in sets.iter().filter_map(|set| parse_set(set, "").ok()) {
            insert(&mut tree, &key, value);
        }
        tree
    }

    /// The experiment, changed by the `key=value` pairs in `sets`. If it leaves out its network, the sections that it
    /// leaves out are those of `usual`.
    pub fn load(&self, sets: &[String], usual: Table) -> Result<Experiment, ConfigError> {
        let file = self.file();
        match self {
            Self::BuiltIn(recipe) => parse(&file, recipe.text, sets, usual),
            Self::OfData { text, .. } | Self::Text { text, .. } => parse(&file, text, sets, usual),
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    let carried = Recipe::find(&self.name()).filter(|_| error.kind() == std::io::ErrorKind::NotFound);
                    let hint =
                        carried.map(|recipe| format!("; the recipe in the program is --experiment {}", recipe.name));
                    ConfigError::of_all(&file, format!("cannot be read: {error}{}", hint.unwrap_or_default()))
                })?;
                parse(&file, &text, sets, usual)
            }
        }
    }
}

/// Reads the experiment in `file`, changed by the `key=value` pairs in `sets`.
pub fn load(file: &Path, sets: &[String]) -> Result<Experiment, ConfigError> {
    Source::File(file.to_path_buf()).load(sets, Table::new())
}

fn parse(file: &Path, text: &str, sets: &[String], usual: Table) -> Result<Experiment, ConfigError> {
    let mut tree: Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::of_all(file, format!("is not TOML: {}", shown(&error))))?;

    // What belongs to another network is not taken beside one that the file has.
    if !tree.contains_key("model") {
        for (name, section) in usual {
            tree.entry(name).or_insert(section);
        }
    }

    expand_kinds(&mut tree);
    let mut problems = Vec::new();
    let mut set_keys = Vec::new();
    for set in sets {
        match parse_set(set, "train.steps=1000") {
            Ok((key, value)) => {
                insert(&mut tree, &key, value);
                expand_kinds(&mut tree);
                set_keys.push(key);
            }
            Err(message) => problems.push(Problem { key: set.clone(), message, from_set: true }),
        }
    }
    // A part of what is at fault may have been set, diffusion.schedule.beta_end, say; or a table that it is a part of.
    let is_part =
        |part: &str, of: &str| part.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let given = |key: &str| set_keys.iter().any(|set| is_part(set, key) || is_part(key, set));
    let (experiment, found) = peel(tree);
    let found = found.into_iter();
    problems.extend(found.map(|(key, message)| Problem { from_set: given(&key), key, message }));
    if let Some(experiment) = &experiment {
        let known: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
        let new = experiment.problems().into_iter().filter(|(key, _)| !known.contains(key));
        problems.extend(new.map(|(key, message)| Problem { from_set: given(&key), key, message }));
    }
    match experiment {
        Some(experiment) if problems.is_empty() => Ok(experiment),
        _ => Err(ConfigError { file: file.to_path_buf(), problems }),
    }
}

/// What TOML says, with the line at fault unless that is endless.
fn shown(error: &toml::de::Error) -> String {
    let text = error.to_string();
    if text.len() <= LONGEST_FAULT { text } else { error.message().to_string() }
}

/// A message that a person reads.
const LONGEST_FAULT: usize = 1000;

/// More problems than this are not a mistake in a config, but another file.
const MOST_PROBLEMS: usize = 50;

/// Reads the tree and gives everything that is wrong with it; what is read then lacks the keys at fault.
///
/// serde stops at the first fault. So each section is read by itself, among sections known to be good, and
/// each time serde complains the key to blame is found, noted and taken out, and the section is read again.
fn peel(tree: Table) -> (Option<Experiment>, Vec<(String, String)>) {
    let kind = match kind_of(&tree) {
        Ok(kind) => kind,
        // Whose sections they are is not known, so nothing can be said of them.
        Err(message) => return (None, vec![("family".into(), in_words(&message))]),
    };
    let mut problems = Vec::new();
    let mut sound = good(kind);
    for name in tree.keys() {
        let mut sections = good(kind);
        sections.insert(name.clone(), tree[name].clone());
        let mut removed: Vec<String> = Vec::new();
        while let Err(message) = read(&sections) {
            if problems.len() >= MOST_PROBLEMS {
                problems.push((String::new(), "and more".into()));
                return (None, problems);
            }
            let Some(key) = blame(&sections, name, &message) else { break };
            if make_whole(&mut sections, &key, &message) {
                continue;
            }
            if let Some(field) = missing_key(&message) {
                // Missing may be only what was just taken out; and without it nothing more can be read here.
                if !removed.iter().any(|key| key.rsplit('.').next() == Some(field)) {
                    problems.push((lacking(&sections, &key, field, &message), in_words(&message)));
                }
                break;
            }
            let said = in_words(&message) + &hint(&key, &message, kind);
            let place = place(&sections, &key, &message);
            match place.strip_suffix(".kind").filter(|_| place != key) {
                // What else is in that table cannot be checked; what is next to it can.
                Some(table) => insert(&mut sections, table, first_kind(&message)),
                None => remove(&mut sections, &key),
            }
            problems.push((place, said));
            removed.push(key);
        }
        if read(&sections).is_ok()
            && let Some(section) = sections.remove(name)
        {
            sound.insert(name.clone(), section);
        }
    }
    for name in good(kind).keys().filter(|name| *name != FAMILY).filter(|name| !tree.contains_key(*name)) {
        problems.push((name.clone(), "this section is missing".into()));
    }
    // What is left can still be checked for values that are of the right type and yet impossible.
    (read(&sound).ok(), problems)
}

/// The key that names the family.
const FAMILY: &str = "family";

/// The family of an experiment.
fn kind_of(tree: &Table) -> Result<&'static dyn FamilyKind, String> {
    match tree.get(FAMILY) {
        None => Ok(default_family()),
        Some(Value::String(name)) => family(name),
        Some(other) => Err(format!("invalid type: {}, expected a string", other.type_str())),
    }
}

/// The sections that must be there, as short as they can be.
pub(super) fn good(kind: &dyn FamilyKind) -> Table {
    let mut tree = minimal(kind);
    let digits = Table::from_iter([("kind".to_string(), Value::String("digits".into()))]);
    tree.insert("data".into(), Value::Table(digits));
    tree.insert(FAMILY.into(), Value::String(kind.name().into()));
    tree
}

/// Reads the sections that every family has, and has the family read its own.
pub(super) fn read(tree: &Table) -> Result<Experiment, String> {
    let kind = kind_of(tree)?;
    let mut core = tree.clone();
    core.remove(FAMILY);
    let own = take_own(&mut core, kind);
    if let Some(unknown) = core.keys().find(|name| !SECTIONS.contains(&name.as_str())) {
        return Err(unknown_section(unknown, kind));
    }
    let experiment = Experiment::deserialize(Value::Table(core)).map_err(|error| error.message().to_string());
    let experiment = experiment.map_err(|message| with_shared_keys(message, tree, kind))?;
    Ok(Experiment { family: kind.read(own)?, ..experiment })
}

/// Takes the sections of a family, and its keys in those that every family has.
fn take_own(core: &mut Table, kind: &dyn FamilyKind) -> Table {
    let sections = kind.sections().iter().filter(|(name, _)| !name.contains('.'));
    let mut own: Table = sections.filter_map(|(name, _)| core.remove_entry(*name)).collect();
    for (name, key) in kind.shared_keys() {
        if let Some(Value::Table(section)) = core.get_mut(*name)
            && let Some(value) = section.remove(*key)
            && let Value::Table(section) = own.entry(*name).or_insert(Value::Table(Table::new()))
        {
            section.insert(key.to_string(), value);
        }
    }
    own
}

/// As serde says it of a key.
fn unknown_section(name: &str, kind: &dyn FamilyKind) -> String {
    let mut known: Vec<&str> = [FAMILY].into_iter().chain(SECTIONS).collect();
    known.extend(kind.sections().iter().map(|(name, _)| *name).filter(|name| !name.contains('.')));
    known.dedup();
    let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    format!("unknown field `{name}`, expected one of {}", known.join(", "))
}

/// What serde says of an unknown key in a section that a family has keys in, with these among those that there are.
fn with_shared_keys(message: String, tree: &Table, kind: &dyn FamilyKind) -> String {
    let Some(unknown) = unknown_key(&message) else { return message };
    let holds = |section: &str| {
        tree.get(section).and_then(Value::as_table).is_some_and(|section| section.contains_key(unknown))
    };
    let keys = kind.shared_keys().iter().filter(|(section, _)| holds(section));
    let keys: String = keys.map(|(_, key)| format!(", `{key}`")).collect();
    message + &keys
}

/// The key of a section without which serde would not say `message`.
///
/// serde cannot name the key inside a section whose meaning depends on its `kind`; leaving keys out can.
fn blame(tree: &Table, section: &str, message: &str) -> Option<String> {
    let without = |key: &String| {
        let mut tree = tree.clone();
        remove(&mut tree, key);
        read(&tree).err()
    };
    let mut keys = vec![section.to_string()];
    if let Some(Value::Table(table)) = tree.get(section) {
        leaves(table, section, &mut keys);
    }
    // There may be very many unknown keys, and each is named.
    if let Some(unknown) = unknown_key(message) {
        keys.retain(|key| key == unknown || key.strip_suffix(unknown).is_some_and(|before| before.ends_with('.')));
    }
    // The inner before the outer; `kind` and the whole last, without which every complaint disappears.
    keys.sort_by_key(|key| (key == section, key.ends_with("kind"), std::cmp::Reverse(key.matches('.').count())));
    let changed: Vec<_> =
        keys.into_iter().map(|key| (without(&key), key)).filter(|(now, _)| now.as_deref() != Some(message)).collect();
    let missing = |now: &Option<String>| now.as_ref().is_some_and(|now| now.starts_with("missing field"));
    changed.iter().find(|(now, _)| !missing(now)).or(changed.first()).map(|(_, key)| key.clone())
}

/// The table that lacks `field`: that at `key`, or that which `key` is in.
fn lacking(tree: &Table, key: &str, field: &str, message: &str) -> String {
    let mut filled = tree.clone();
    if value_mut(&mut filled, key).is_some_and(|value| value.is_table()) {
        insert(&mut filled, &format!("{key}.{field}"), Value::Boolean(true));
        if read(&filled).err().as_deref() != Some(message) {
            return key.into();
        }
    }
    key.rsplit_once('.').map_or(key, |(table, _)| table).into()
}

/// Where in the table at `key` the name stands that serde does not know. For any other message, `key`.
fn place(tree: &Table, key: &str, message: &str) -> String {
    let name = message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`')).map(|(name, _)| name);
    let mut tree = tree.clone();
    let mut keys = Vec::new();
    if let Some(Value::Table(table)) = value_mut(&mut tree, key) {
        leaves(table, key, &mut keys);
    }
    let mut is_it = |key: &String| {
        value_mut(&mut tree, key).and_then(|value| value.as_str()).is_some_and(|value| name == Some(value))
    };
    keys.into_iter().find(|key| is_it(key)).unwrap_or_else(|| key.into())
}

/// A table with the first of the kinds that serde's message names.
fn first_kind(message: &str) -> Value {
    let known = message.split_once("expected ").and_then(|(_, known)| known.split('`').nth(1)).unwrap_or_default();
    Value::Table(Table::from_iter([("kind".to_string(), Value::String(known.into()))]))
}

/// Dotted keys of all values, and of sections that hold none.
fn leaves(table: &Table, prefix: &str, keys: &mut Vec<String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                leaves(inner, &key, keys);
                // A whole section can be what is unknown.
                keys.push(key);
            }
            _ => keys.push(key),
        }
    }
}

/// Makes a number such as 1e3 a whole one, if that is all that is wrong with the value at `key`. Gives whether it was.
fn make_whole(tree: &mut Table, key: &str, message: &str) -> bool {
    let wanted = ["u64", "u32", "usize", "u8", "i64"].iter().any(|kind| message.ends_with(&format!("expected {kind}")));
    match value_mut(tree, key) {
        // Up to here every whole number is one of f64.
        Some(value @ Value::Float(_)) if wanted => match value.as_float() {
            Some(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
                *value = Value::Integer(number as i64);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ddpm_model::ema::EmaKind;
    use ddpm_model::network::NetworkConfig;

    use super::*;
    use crate::config::OptimizerKind;
    use ddpm_families::diffusion::DiffusionFamily;
    use ddpm_families::diffusion::tables::DiffusionTables;

    fn read_text(text: &str, sets: &[&str]) -> Result<Experiment, ConfigError> {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        parse(Path::new("x.toml"), text, &sets, Table::new())
    }

    fn problems_of(text: &str, sets: &[&str]) -> Vec<Problem> {
        read_text(text, sets).map(|_| Vec::new()).unwrap_or_else(|error| error.problems)
    }

    fn tables(experiment: &Experiment) -> &DiffusionTables {
        experiment.family.get::<DiffusionFamily>().unwrap()
    }

    const DIGITS: &str = "[data]\nkind = \"digits\"\n[model]\nkind = \"unet\"\n";

    #[test]
    fn a_short_experiment_is_enough() {
        assert_eq!(problems_of(DIGITS, &[]), []);
    }

    #[test]
    fn every_problem_is_reported_with_its_key() {
        let text = format!(
            "{DIGITS}norm_groops = 8\n[train]\nsteps = \"many\"\nbatch_size = 7\naccumulate = 2\nsed = 1\n[colour]\nred = 1\n"
        );
        let problems = problems_of(&text, &["optimizer.learning_rate=fast", "ema.decoy=0.9"]);
        let mut keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            [
                "colour",
                "ema.decoy",
                "model.norm_groops",
                "optimizer.learning_rate",
                "train.accumulate",
                "train.sed",
                "train.steps"
            ],
            "{problems:#?}"
        );
        assert!(problems.iter().filter(|problem| problem.from_set).count() == 2);
    }

    #[test]
    fn an_unknown_kind_is_blamed_on_the_kind() {
        let problems = problems_of("[data]\nkind = \"digitz\"\n[model]\nkind = \"unet\"\n", &[]);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].key, "data.kind");
        assert!(problems[0].message.contains("digits"), "{}", problems[0].message);
    }

    #[test]
    fn faults_of_one_section_do_not_hide_those_of_another() {
        let problems =
            problems_of("[data]\nkind = \"images\"\nsise = 3\n[model]\nkind = \"unat\"\n[train]\nseed = -1\n", &[]);
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["data.sise", "data", "model.kind", "train.seed"], "{problems:#?}");
        assert!(problems[1].message.contains("path"));
        let problems = problems_of("[train]\nsteps = 3\n", &[]);
        assert_eq!(problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), ["data", "model"]);
    }

    #[test]
    fn classes_are_a_number_or_those_of_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        std::fs::write(&file, format!("{DIGITS}classes = \"data\"\n")).unwrap();
        assert!(tables(&load(&file, &[]).unwrap()).classes_of_data);
        let ten = load(&file, &["model.classes=10".into()]).unwrap();
        let ten = tables(&ten);
        assert!(!ten.classes_of_data && ten.model.num_classes() == 10);
        std::fs::write(&file, DIGITS).unwrap();
        assert!(tables(&load(&file, &["model.classes=data".into()]).unwrap()).classes_of_data);

        let problems = problems_of(&format!("{DIGITS}classes = \"dta\"\n"), &[]);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert_eq!((&*problems[0].key, problems[0].from_set), ("model.classes", false));
        assert!(problems[0].message.contains("is \"dta\"; expected a number, or \"data\""), "{}", problems[0].message);
    }

    #[test]
    fn a_kind_may_be_a_bare_name_and_a_whole_number_may_have_an_exponent() {
        let text = "model = \"unet\"\n[data]\nkind = \"digits\"\n";
        let sets =
            ["diffusion.schedule=cosine", "optimizer.decay=constant", "train.steps=1e3", "diffusion.weighting=min-snr"];
        assert_eq!(problems_of(text, &sets), []);
        let both = ["diffusion.schedule=cosine", "diffusion.schedule.steps=77", "preview.steps=7"];
        assert_eq!(tables(&read_text(DIGITS, &both).unwrap()).diffusion.schedule.steps(), 77);
        let edm = ["diffusion.continuous.path=ve", "diffusion.continuous.prediction=edm", "optimizer.kind=adamw"];
        assert_eq!(problems_of(DIGITS, &edm), []);
        // The other keys of these sections stay.
        let text = format!("ema = \"none\"\n{DIGITS}[optimizer]\nlearning_rate = 0.5\n");
        let experiment = read_text(&text, &["optimizer=lion"]).unwrap();
        assert_eq!(experiment.ema.kind, EmaKind::None);
        assert_eq!((experiment.optimizer.kind, experiment.optimizer.learning_rate), (OptimizerKind::Lion, 0.5));
    }

    #[test]
    fn steps_may_be_drawn_by_their_losses_with_any_loss() {
        for loss in ["mse", "rescaled-mse", "kl", "rescaled-kl"] {
            let loss = format!("diffusion.loss={loss}");
            let sets = ["diffusion.variance=learned", "train.time_sampling=loss-second-moment", &loss];
            assert_eq!(problems_of(DIGITS, &sets), []);
        }
    }

    #[test]
    fn what_is_not_read_beside_a_path_is_known() {
        let continuous = ["diffusion.continuous.path=ve", "diffusion.prediction=eps", "diffusion.weighting=snr"];
        assert_eq!(tables(&read_text(DIGITS, &continuous).unwrap()).unread, ["diffusion.prediction"]);
        assert!(tables(&read_text(DIGITS, &continuous[1..]).unwrap()).unread.is_empty());
        // What is printed of an experiment says no more than it reads.
        let printed = toml::to_string(&read_text(DIGITS, &continuous).unwrap()).unwrap();
        assert!(tables(&read_text(&printed, &[]).unwrap()).unread.is_empty(), "{printed}");
    }

    #[test]
    fn faults_inside_tables_have_their_own_keys() {
        let keys = |sets: &[&str]| {
            let problems = problems_of(DIGITS, sets);
            assert!(problems.iter().all(|problem| problem.from_set), "{problems:#?}");
            problems.into_iter().map(|problem| (problem.key, problem.message)).collect::<Vec<_>>()
        };
        let only = |set: &str| keys(&[set]).remove(0);
        assert_eq!(only("diffusion.continuous.path=vee").0, "diffusion.continuous.path.kind");
        assert_eq!(only("diffusion.schedule.kind=cosin").0, "diffusion.schedule.kind");
        assert_eq!(only("diffusion.continuous.path={ kind = \"ve\", x = 1 }").0, "diffusion.continuous.path.x");
        let mut beside = keys(&["diffusion.continuous.path=vee", "diffusion.continuous.prediction=edn"]).into_iter();
        assert_eq!(beside.next().unwrap().0, "diffusion.continuous.path.kind");
        assert_eq!(beside.next().unwrap().0, "diffusion.continuous.prediction");
        assert!(beside.next().is_none());
        let missing = |key: &str, missing: &str| (key.to_string(), format!("the key `{missing}` is missing"));
        assert_eq!(only("diffusion.schedule={ steps = 10 }"), missing("diffusion.schedule", "kind"));
        assert_eq!(only("diffusion.continuous.prediction=edm"), missing("diffusion.continuous", "path"));
        assert_eq!(only("data=images"), missing("data", "path"));
    }

    #[test]
    fn the_sampler_of_previews_may_bring_its_options() {
        assert_eq!(problems_of(&format!("{DIGITS}[preview]\nsampler = \"heun:churn=40\"\n"), &[]), []);
        assert_eq!(problems_of(DIGITS, &["preview.sampler=heun:churn=40"]), []);
        for (sampler, said) in [
            ("heun:speed=1", "churn (a number from 0 up)"),
            ("heun:churn=-1", "not `-1`"),
            ("magic", "there is no sampler `magic`; there are: ddpm, ddim"),
        ] {
            let problems = problems_of(DIGITS, &[&format!("preview.sampler={sampler}")]);
            assert_eq!((problems.len(), &problems[0].key[..]), (1, "preview.sampler"), "{problems:?}");
            assert!(problems[0].message.contains(said), "{problems:?}");
        }
    }

    #[test]
    fn messages_have_no_names_of_types() {
        let sets = [
            "model.base_channels=\"64\"",
            "train.batch_size=1.5",
            "optimizer.learning_rate=fast",
            "diffusion.schedule=3",
            "diffusion.continuous=7",
            "ema.kind=[1]",
            "preview.sampler=3",
            "model.multipliers=2",
            "train.tensorboard=yes",
            "train.precision=f8",
            "optimizer.decay.kind=3",
            "data.colour=red",
            "fine_tune.lora.alpha=2",
        ];
        let problems = problems_of(DIGITS, &sets);
        assert_eq!(problems.len(), sets.len(), "{problems:#?}");
        for problem in &problems {
            let words = ["enum ", "struct ", "u64", "usize", "f64", "Config", "floating", "variant", "field"];
            assert!(!words.iter().any(|word| problem.message.contains(word)), "{problem:?}");
        }
        let whole = problems_of(DIGITS, &["train=5"]);
        assert_eq!(whole[0].message, "invalid type: integer `5`, expected a section of its own");
        let message = |key: &str| &problems.iter().find(|problem| problem.key == key).unwrap().message;
        assert!(message("train.batch_size").ends_with("expected a whole number, 0 or more"), "{problems:#?}");
        assert!(message("diffusion.schedule").contains("{ kind = \"cosine\" }"), "{problems:#?}");
    }

    #[test]
    fn a_misplaced_key_is_told_where_it_belongs() {
        let problems = problems_of(DIGITS, &["model.steps=5", "diffusion.prediction=edm"]);
        let of = |key: &str| problems.iter().find(|problem| problem.key == key).unwrap().message.clone();
        assert!(of("model.steps").ends_with("and [train] and [preview] have a key of that name"), "{problems:#?}");
        assert!(of("diffusion.prediction").contains("diffusion.continuous.prediction"), "{problems:#?}");
    }

    #[test]
    fn recipes_are_found_without_a_checkout_and_files_come_first() {
        assert_eq!(Source::find("./no/such.toml").unwrap(), Source::File("./no/such.toml".into()));
        let error = Source::File("no/digits.toml".into()).load(&[], Table::new()).unwrap_err().to_string();
        assert!(error.contains("the recipe in the program is --experiment digits"), "{error}");
        let error = Source::find("digitz").unwrap_err().to_string();
        assert!(error.contains("digits-edm") && error.contains("points-swiss-roll"), "{error}");
        for recipe in RECIPES {
            let source = Source::BuiltIn(recipe);
            assert_eq!(source.name(), recipe.name);
            source.load(&[], Table::new()).unwrap();
        }
    }

    #[test]
    fn what_a_file_leaves_out_can_be_given() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        std::fs::write(&file, "[data]\nkind = \"digits\"\n").unwrap();
        let model =
            Table::from_iter([("kind".to_string(), Value::from("unet")), ("base_channels".into(), Value::from(24))]);
        let usual = Table::from_iter([("model".to_string(), Value::Table(model))]);
        let source = Source::File(file);
        assert!(source.load(&[], Table::new()).is_err());
        let experiment = source.load(&[], usual).unwrap();
        let NetworkConfig::UNet(config) = &tables(&experiment).model else { panic!("a U-Net") };
        assert_eq!(config.base_channels, 24);
    }
}

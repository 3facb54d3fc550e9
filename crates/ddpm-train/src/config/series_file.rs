//! `--data FILE`: an experiment for a file of time series, with all that follows from what is in the file.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use ddpm_data::series::{Opened, ReadHints, Series, Summary, grouped, read_any};
use ddpm_data::{shown, with_home};
use ddpm_families::timegrad::lags_of_frequency;
use toml::Value;

use super::load::Source;
use crate::started_as::quoted;
use crate::train::UsageError;

/// An experiment for a file, and what to say of it.
#[derive(Debug)]
pub(crate) struct SeriesExperiment {
    /// The experiment.
    pub(crate) source: Source,
    /// What was found in the file, a line each.
    pub(crate) found: Vec<String>,
    /// The command that uses the model.
    pub(crate) next: String,
}

/// Series of one variable each that are learned as the variables of one series, at most.
const MOST_GROUPED: usize = 100;
/// Images, which are no series.
const IMAGES: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];

impl SeriesExperiment {
    /// Looks into the file: with a horizon, or one that the dataset states, forecasts are learned, otherwise imputation.
    pub(crate) fn find(path: &Path, horizon: Option<usize>) -> anyhow::Result<Self> {
        let file = with_home(path);
        if has_images(&file) {
            return Err(UsageError(format!(
                "--data {}: it has images, not time series; to train on images, write an experiment with [data] kind = \
                 \"images\"",
                shown(path)
            ))
            .into());
        }
        let opened = read_any(&file, &ReadHints::default())?;
        let found = Found::new(path, &opened)
            .ok_or_else(|| UsageError(format!("--data {}: there are no series in it", shown(path))))?;
        let horizon = horizon.or(opened.horizon);
        let (family, recipe) = match horizon {
            Some(horizon) => ("timegrad", found.forecast(horizon)?),
            None => ("masked", found.imputation()?),
        };
        let text = format!("{}\n{}\n{}", recipe.head(family), found.data_table(&recipe), recipe.text);
        let name = format!("{}-{family}", plain(path));
        Ok(Self {
            found: found.lines(opened.notes, &recipe),
            next: next_command(path, horizon),
            source: Source::OfData { path: path.to_path_buf(), name, text },
        })
    }
}

/// Whether a path is an image or a folder of images.
fn has_images(path: &Path) -> bool {
    let is_image = |path: &Path| {
        path.extension().is_some_and(|extension| IMAGES.iter().any(|image| extension.eq_ignore_ascii_case(image)))
    };
    let of_folder = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let zip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip"));
    let folders = || of_folder(path).filter(|inner| inner.is_dir()).take(8);
    is_image(path)
        || (zip && path.is_file())
        || of_folder(path).any(|file| is_image(&file))
        || folders().any(|folder| of_folder(&folder).take(64).any(|file| is_image(&file)))
}

/// The name of a file as a part of the name of a run.
fn plain(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = stem.chars().take(40).map(letter).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "series".into() } else { name.into() }
}

fn next_command(path: &Path, horizon: Option<usize>) -> String {
    let file = quoted(path);
    match horizon {
        Some(horizon) => format!("cargo xtask forecast --data {file} --horizon {horizon}"),
        None => format!("cargo xtask impute --data {file}"),
    }
}

/// What is in a file.
struct Found {
    path: PathBuf,
    format: String,
    summary: Summary,
    /// Whether series of one variable each become one series.
    is_grouped: bool,
    /// Whether each series is a window, for training or for the test as a whole.
    is_windows: bool,
    /// Whether the dataset says what the test is.
    has_test: bool,
}

/// The sections that are not about the data, and what of the data is for training.
struct Recipe {
    about: String,
    text: String,
    /// Steps for training, where that is not four in five.
    train: Option<usize>,
    /// Said of the model.
    line: String,
    notes: Vec<String>,
}

impl Recipe {
    fn head(&self, family: &str) -> String {
        format!("# {}\nfamily = \"{family}\"\n", self.about)
    }
}

impl Found {
    fn new(path: &Path, opened: &Opened) -> Option<Self> {
        let is_grouped = are_variables(&opened.series);
        let joined = is_grouped.then(|| grouped::group_train(&opened.series, None)).flatten();
        let summary = Summary::of(joined.as_ref().map_or(&opened.series[..], std::slice::from_ref))?;
        let [least, most] = summary.steps;
        Some(Self {
            path: path.to_path_buf(),
            format: opened.format.clone(),
            is_grouped: joined.is_some(),
            is_windows: summary.series > 1 && least == most && summary.span.is_none(),
            has_test: !opened.test.is_empty(),
            summary,
        })
    }

    /// Steps of the longest series.
    fn rows(&self) -> usize {
        self.summary.steps[1]
    }

    /// Steps for training of the longest series if the test has at least so many, and whether that must be stated.
    fn train_steps(&self, tested: usize) -> (usize, Option<usize>) {
        let rows = self.rows();
        let usual = rows - rows / 5;
        match self.has_test || self.is_windows {
            true => (rows, None),
            false if rows / 5 >= tested => (usual, None),
            false => {
                let train = rows.saturating_sub(tested);
                (train, Some(train))
            }
        }
    }

    /// The `[data]` section.
    fn data_table(&self, recipe: &Recipe) -> String {
        let path = Value::String(self.path.to_string_lossy().into_owned());
        let mut table = format!("[data]\nkind = \"series\"\npath = {path}\n");
        if self.is_grouped {
            table += "grouped = true\n";
        }
        if let Some(train) = recipe.train {
            let _ = writeln!(table, "split = {{ train = {train} }}");
        }
        table
    }

    fn lines(&self, notes: Vec<String>, recipe: &Recipe) -> Vec<String> {
        let summary = &self.summary;
        let joined = if self.is_grouped { "; its series are learned as the variables of one" } else { "" };
        let mut lines = vec![
            format!("{}: {}{joined}", shown(&self.path), self.format),
            format!("{summary}: {}", in_short(&summary.variables)),
        ];
        lines.extend(notes.into_iter().map(|note| format!("note: {note}")));
        lines.push(match summary.all_missing() {
            0 => "no value is missing".into(),
            missing => format!(
                "{missing} values are missing ({:.1} %), at most {} in a row",
                100.0 * summary.share_missing(),
                summary.longest_gap
            ),
        });
        lines.push(self.split_line(recipe));
        lines.push(recipe.line.clone());
        lines.extend(recipe.notes.iter().map(|note| format!("note: {note}")));
        lines
    }

    fn split_line(&self, recipe: &Recipe) -> String {
        let rows = self.rows();
        let train = recipe.train.unwrap_or(rows - rows / 5);
        match (self.has_test, self.is_windows) {
            (true, _) => "what is for training and what for the test is as the dataset has it".into(),
            (_, true) => {
                let series = self.summary.series;
                format!(
                    "the first {} series are for training, the last {} for the test",
                    series - series / 5,
                    series / 5
                )
            }
            _ => format!("the first {train} rows are for training, the last {} for the test", rows - train),
        }
    }

    /// TimeGrad.
    fn forecast(&self, horizon: usize) -> anyhow::Result<Recipe> {
        let (train, stated) = self.train_steps(horizon);
        if train < 2 * horizon {
            let (needed, path) = (if stated.is_some() { 3 } else { 2 } * horizon, shown(&self.path));
            return Err(UsageError(format!(
                "--horizon {horizon}: {path} has {} rows, and forecasts of {horizon} steps are learned from at least {needed}",
                self.rows()
            ))
            .into());
        }
        let context = (2 * horizon).clamp(24, horizon.max(168)).min(train - horizon);
        let variables = self.summary.variables.len();
        let (width, blocks) = if variables > 16 { (256, 3) } else { (64, 2) };
        let lags = self.short_lags(train - context - horizon);
        let scaling = if self.summary.series > 1 && !self.is_windows { "scaling = \"mean\"\n" } else { "" };
        let batch = power_of_two(self.windows(train, context + horizon), 64);
        let learned = batch * (context + horizon);
        let steps = steps_of(seconds_of_timegrad(learned, width)).min(most_steps(self.summary.series * train));
        Ok(Recipe {
            about: format!("Forecasts of {horizon} steps of {}.", plain(&self.path)),
            text: format!(
                "[model]\ndropout = 0.1\ndenoiser = {{ kind = \"mlp\", width = {width}, blocks = {blocks} }}\n\n\
                 [timegrad]\ncontext = {context}\nhorizon = {horizon}\nnoises_per_step = 4\n{scaling}{lags}\n\
                 [diffusion]\nsteps = 100\nschedule = \"cosine\"\nprediction = \"v\"\n\n{}",
                training(steps, batch, [100, 256])
            ),
            train: stated,
            line: format!(
                "TimeGrad learns forecasts of {horizon} steps from the {context} before them, {steps} steps of {batch} windows"
            ),
            notes: Vec::new(),
        })
    }

    /// Lags where those of the frequency reach farther back than most of the training data; else nothing is said of them.
    fn short_lags(&self, room: usize) -> String {
        let Some(frequency) = self.summary.frequency else { return String::new() };
        let usual = lags_of_frequency(frequency);
        let mut lags: Vec<usize> = usual.iter().copied().filter(|lag| 2 * lag <= room).collect();
        if lags.len() == usual.len() {
            return String::new();
        }
        if lags.is_empty() {
            lags.push(1);
        }
        format!("lags = {lags:?}\n")
    }

    /// CSDI.
    fn imputation(&self) -> anyhow::Result<Recipe> {
        let summary = &self.summary;
        let rows = self.rows();
        if rows < LEAST_ROWS && !self.is_windows {
            let path = shown(&self.path);
            return Err(UsageError(format!(
                "--data {path}: it has {rows} rows; imputation is learned from at least {LEAST_ROWS}"
            ))
            .into());
        }
        let longest = if self.is_windows { LONGEST_WINDOW } else { (2 * summary.longest_gap).clamp(48, 96) };
        let window = if self.is_windows { rows } else { (rows / 5).max(8) }.min(longest);
        let (train, stated) = self.train_steps(window);
        let variables = summary.variables.len();
        let chosen = if variables > MOST_VARIABLES { MOST_VARIABLES } else { variables };
        let of_item = if chosen < variables { format!("variables_per_item = {chosen}\n") } else { String::new() };
        let batch = power_of_two(self.windows(train, window), 32);
        let steps = steps_of(seconds_of_csdi(batch * chosen * window, chosen + window));
        let notes = match summary.all_missing() {
            0 => vec!["no value is missing: imputation is learned; for forecasts add --horizon H".to_string()],
            _ => Vec::new(),
        };
        Ok(Recipe {
            about: format!("Imputation of {}.", plain(&self.path)),
            text: format!(
                "[model]\nkind = \"csdi\"\nlayers = 4\nchannels = 32\nheads = 4\nstep_embedding = 64\ntime_embedding = 64\n\
                 feature_embedding = 16\nside_at_input = true\n\n[diffusion]\nprediction = \"v\"\n\n\
                 [masked]\nwindow = {window}\nmasks = [{}]\nmean = \"windows\"\n{of_item}\n{}",
                self.masks(),
                training(steps, batch, [20, 200])
            ),
            train: stated,
            line: format!("CSDI learns to fill in windows of {window} steps, {steps} steps of {batch} windows"),
            notes,
        })
    }

    /// What is hidden in training is like what is missing.
    fn masks(&self) -> String {
        let mut masks = vec![if self.summary.share_missing() >= 0.05 { "mix" } else { "random" }];
        if self.summary.longest_gap >= 3 {
            masks.push("segment");
        }
        masks.iter().map(|kind| format!("{{ kind = \"{kind}\" }}")).collect::<Vec<_>>().join(", ")
    }

    /// How many windows of so many steps there are, about.
    fn windows(&self, train: usize, steps: usize) -> usize {
        (self.summary.series * train.saturating_sub(steps)).max(1)
    }
}

/// Whether series are the variables of one: of one variable each, over the same times.
fn are_variables(series: &[Series]) -> bool {
    let like = |one: &Series, other: &Series| {
        one.target.variables() == 1 && one.index == other.index && one.target.steps() == other.target.steps()
    };
    let has_times = series.first().is_some_and(|first| first.index.timestamp(0).is_some());
    has_times && (2..=MOST_GROUPED).contains(&series.len()) && series.iter().all(|one| like(one, &series[0]))
}

/// Rows of one series that are enough for a window and a test.
const LEAST_ROWS: usize = 20;
/// Longer series that are windows are cut.
const LONGEST_WINDOW: usize = 200;
/// Variables of a training item of CSDI at most.
const MOST_VARIABLES: usize = 24;

/// The largest power of two up to both.
fn power_of_two(count: usize, most: usize) -> usize {
    1 << count.clamp(1, most).ilog2()
}

/// Seconds that a training should take on two cores.
const SECONDS: f64 = 180.0;

/// Steps of a training, of which each takes so many seconds.
fn steps_of(seconds: f64) -> usize {
    let steps = (SECONDS / seconds) as usize / 100 * 100;
    steps.clamp(300, 3000)
}

/// Steps of a training on so many rows at most: after more of them a forecaster knows the rows by heart. On 640 days of two
/// variables, forecasts of held-out days were best after 150 steps, and a tenth worse after 500 of a network twice as wide.
fn most_steps(rows: usize) -> usize {
    100 * (rows / 300).clamp(3, 30)
}

/// About how long a step takes for so many steps of series in a batch: an estimate for two cores.
fn seconds_of_timegrad(learned: usize, width: usize) -> f64 {
    learned as f64 * (1.0e-5 + 3.0e-10 * (width * width) as f64)
}

/// The same for so many cells in a batch, with attention over so many places.
fn seconds_of_csdi(cells: usize, places: usize) -> f64 {
    cells as f64 * (2.0e-5 + 3.0e-8 * places as f64)
}

/// The sections about training.
fn training(steps: usize, batch: usize, [previews, held_out]: [usize; 2]) -> String {
    let (third, sixth) = (steps / 3, steps / 6);
    format!(
        "[optimizer]\nlearning_rate = 2e-3\nwarmup_steps = {}\ndecay = {{ kind = \"cosine\", until = {steps} }}\n\n\
         [ema]\nkind = \"warmup\"\ndecay = 0.999\n\n\
         [train]\nsteps = {steps}\nbatch_size = {batch}\nlog_every = 50\ncheckpoint_every = {third}\n\
         snapshot_every = {steps}\n\n\
         [preview]\nevery = {third}\ncount = {previews}\n\n\
         [validation]\nevery = {sixth}\ncount = {held_out}\n",
        (steps / 10).min(100)
    )
}

/// Names that a line has room for.
const NAMES_SHOWN: usize = 12;

fn in_short(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| ddpm_data::printable(name)).collect();
    let more = names.len() - shown.len();
    if more == 0 { shown.join(", ") } else { format!("{}, and {more} more", shown.join(", ")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use burn::tensor::Device;
    use ddpm_data::Split;
    use ddpm_families::family::Subject;
    use toml::Table;

    use super::*;

    /// A table of `rows` hours, or without times, whose second column lacks what `has` refuses.
    fn table(times: bool, rows: usize, has: impl Fn(usize) -> bool) -> String {
        let mut text = String::from(if times { "when,a,b,place\n" } else { "a,b,place\n" });
        for row in 0..rows {
            let (a, b) = ((row as f64 / 4.0).sin(), row as f64 / 7.0);
            if times {
                let _ = write!(text, "2020-01-{:02}T{:02}:00,", 1 + row / 24, row % 24);
            }
            let b = if has(row) { b.to_string() } else { String::new() };
            let _ = writeln!(text, "{a},{b},here");
        }
        text
    }

    /// The experiment for a file, which is valid for it, and its text.
    fn find(path: &Path, horizon: Option<usize>) -> (SeriesExperiment, Table) {
        let found = SeriesExperiment::find(path, horizon).unwrap();
        let experiment = found.source.load(&[], Table::new()).unwrap();
        let Source::OfData { text, .. } = &found.source else { panic!("{:?}", found.source) };
        let data = ddpm_data::open(&experiment.data, Split::Train, 0).unwrap();
        let subject = Subject {
            experiment: "x",
            config: &experiment.data,
            data: &data,
            balanced: false,
            device: &Device::default(),
        };
        let family = experiment.family.resolve(&subject).unwrap();
        let (train, test) =
            (family.items(data.clone()).items.len(), ddpm_data::open(&experiment.data, Split::Test, 0).unwrap());
        assert!(train >= experiment.train.batch_size, "{train} windows in {text}");
        assert!(!family.items(test).items.is_empty(), "{text}");
        let text = text.parse().unwrap();
        (found, text)
    }

    #[test]
    fn a_horizon_gives_a_model_that_forecasts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("two rooms.csv");
        fs::write(&path, table(true, 600, |row| row % 10 != 3)).unwrap();
        let (found, text) = find(&path, Some(12));
        assert_eq!(text["family"].as_str(), Some("timegrad"));
        assert_eq!(text["timegrad"]["horizon"].as_integer(), Some(12));
        assert!(text["timegrad"].get("lags").is_none(), "168 hours are there: {text}");
        assert_eq!(found.source.name(), "two-rooms-timegrad");
        let lines = found.found.join("\n");
        for part in [
            "separated by \",\", times in column `when`",
            "600 rows of 2 variables, every h from 2020-01-01T00:00:00 to 2020-01-25T23:00:00: a, b",
            "column `place` has words and is left out",
            "60 values are missing (5.0 %), at most 1 in a row",
            "the first 480 rows are for training, the last 120 for the test",
        ] {
            assert!(lines.contains(part), "{part} is not in {lines}");
        }
        assert!(found.next.starts_with("cargo xtask forecast --data '") && found.next.ends_with("--horizon 12"));
        // The test has the horizon, and the lags fit what is left, where there are few rows.
        fs::write(&path, table(true, 90, |_| true)).unwrap();
        let (_, text) = find(&path, Some(24));
        assert_eq!(text["data"]["split"]["train"].as_integer(), Some(66));
        assert_eq!(text["timegrad"]["lags"].as_array().unwrap().len(), 1);
        for (horizon, needed) in [(31, 93), (500, 1500)] {
            let error = SeriesExperiment::find(&path, Some(horizon)).unwrap_err().to_string();
            assert!(error.contains("has 90 rows") && error.contains(&needed.to_string()), "{error}");
        }
    }

    #[test]
    fn without_a_horizon_holes_are_filled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sensors.csv");
        for (rows, window) in [(25, 8), (100, 20), (600, 48)] {
            fs::write(&path, table(false, rows, |row| !(5..10).contains(&(row % 20)))).unwrap();
            let (found, text) = find(&path, None);
            assert_eq!(text["family"].as_str(), Some("masked"));
            assert_eq!(text["masked"]["window"].as_integer(), Some(window));
            assert_eq!(text["masked"]["masks"].as_array().unwrap().len(), 2, "{text}");
            assert!(found.next.starts_with("cargo xtask impute --data "), "{}", found.next);
        }
        fs::write(&path, table(false, 600, |_| true)).unwrap();
        let (found, _) = find(&path, None);
        assert!(found.found.last().unwrap().contains("--horizon H"), "{:?}", found.found);
        fs::write(&path, table(false, 12, |row| row != 3)).unwrap();
        let error = SeriesExperiment::find(&path, None).unwrap_err().to_string();
        assert!(error.contains("12 rows") && error.contains("at least 20"), "{error}");
    }

    #[test]
    fn datasets_of_every_format_get_an_experiment() {
        let fixtures = ddpm_testing::support::fixture("series_formats");
        for (name, horizon) in [
            ("gluonts_uni", None),
            ("gluonts_multi", None),
            ("npy/nlc_nan.npy", Some(1)),
            ("tsf/monthly.tsf", Some(2)),
            ("csv/long_unsorted.csv", Some(2)),
            ("physio", None),
        ] {
            let found = SeriesExperiment::find(&fixtures.join(name), horizon);
            let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
            let experiment = found.source.load(&[], Table::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
            ddpm_data::open(&experiment.data, Split::Train, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        // Items over the same times are the variables of one series.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.csv");
        let row = |row: usize| format!("{},2020-02-{:02},{row}\n", ["x", "y"][row % 2], 1 + row / 2);
        fs::write(&path, "item_id,date,value\n".to_string() + &(0..50).map(row).collect::<String>()).unwrap();
        let (found, text) = find(&path, Some(2));
        assert_eq!(text["data"]["grouped"].as_bool(), Some(true));
        assert!(found.found[1].starts_with("25 rows of 2 variables, every d"), "{:?}", found.found);
    }

    #[test]
    fn what_is_no_series_is_said_in_one_message() {
        let folder = tempfile::tempdir().unwrap();
        let error = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            SeriesExperiment::find(&path, None).unwrap_err().to_string()
        };
        assert!(error("words.csv", b"a,b\nx,y\nz,w\n").contains("a column of numbers to learn"));
        assert!(error("any.bin", b"123").contains("expected a .csv"));
        assert!(error("cat.png", b"123").contains("kind = \"images\""));
        let error = SeriesExperiment::find(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("it has images, not time series"), "{error}");
        let error = SeriesExperiment::find(&folder.path().join("none.csv"), None).unwrap_err().to_string();
        assert!(error.contains("none.csv"), "{error}");
    }
}

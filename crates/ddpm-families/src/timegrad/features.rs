//! What is known of the time of a step: its place in the cycles of the calendar.

use std::f64::consts::TAU;

use ddpm_data::DataInfo;
use ddpm_data::series::{Frequency, Index, Timestamp};
use ddpm_model::timegrad::calendar::Moment;
use ddpm_model::timegrad::features::{Field, Frequency as Periods, Unit};
use serde::{Deserialize, Serialize};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
/// Days of a year, and seconds of one.
const YEAR_DAYS: f64 = 365.25;
const YEAR: i64 = (YEAR_DAYS * DAY as f64) as i64;

/// What the recurrent network reads of the time of a step, where the times are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureSet {
    /// Its place in each cycle of the calendar that is longer than two steps: the hour, the day, the week, the year.
    #[default]
    Calendar,
    /// Its place in the year.
    Year,
    /// The fields that pytorch-ts has for the frequency: of days, the day of the week alone.
    PytorchTs,
    /// Nothing.
    None,
}

/// A cycle of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cycle {
    Hour,
    Day,
    Week,
    Year,
    /// A field of pytorch-ts, which counts whole values.
    Field(Field),
}

/// A sine and a cosine over a cycle.
#[derive(Clone, Copy, Debug)]
struct Wave {
    cycle: Cycle,
    /// How often it repeats in the cycle.
    harmonic: u32,
}

/// The time features of series of one frequency.
#[derive(Clone, Debug)]
pub(super) struct TimeFeatures {
    periods: Option<Periods>,
    waves: Vec<Wave>,
}

/// The frequency of the series, where it is known.
pub(super) fn frequency_of(data: &DataInfo) -> Option<Frequency> {
    data.series.as_ref()?.frequency.as_deref().and_then(Frequency::parse)
}

/// The frequency as the units of TimeGrad; what is shorter than a minute counts as minutes.
pub(super) fn periods(frequency: Frequency) -> Periods {
    let multiple = |unit, seconds: i64, of: i64| Periods { unit, multiple: (seconds / of).max(1) as u32 };
    match frequency {
        Frequency::BusinessDays => Periods { unit: Unit::BusinessDay, multiple: 1 },
        Frequency::Months(months) => Periods { unit: Unit::Month, multiple: months },
        Frequency::Seconds(seconds) => match i64::from(seconds) {
            seconds if seconds % WEEK == 0 => multiple(Unit::Week, seconds, WEEK),
            seconds if seconds % DAY == 0 => multiple(Unit::Day, seconds, DAY),
            seconds if seconds % HOUR == 0 => multiple(Unit::Hour, seconds, HOUR),
            seconds => multiple(Unit::Minute, seconds, MINUTE),
        },
    }
}

/// About how many seconds lie between two steps.
fn seconds_of(frequency: Frequency) -> i64 {
    match frequency {
        Frequency::Seconds(seconds) => i64::from(seconds),
        Frequency::BusinessDays => DAY,
        Frequency::Months(months) => i64::from(months) * YEAR / 12,
    }
}

impl TimeFeatures {
    /// Those of a set, for the frequency of the data; none where that is not known.
    pub(super) fn new(set: FeatureSet, data: &DataInfo) -> Self {
        let frequency = frequency_of(data).filter(|_| set != FeatureSet::None);
        let Some(frequency) = frequency else { return Self { periods: None, waves: Vec::new() } };
        let periods = periods(frequency);
        let cycles = [(Cycle::Hour, HOUR, 1), (Cycle::Day, DAY, 2), (Cycle::Week, WEEK, 3), (Cycle::Year, YEAR, 2)];
        let longer = |cycles: &[(Cycle, i64, u32)]| {
            let longer = cycles.iter().filter(|(_, length, _)| *length > 2 * seconds_of(frequency));
            longer.flat_map(|&(cycle, _, most)| (1..=most).map(move |harmonic| Wave { cycle, harmonic })).collect()
        };
        let waves = match set {
            FeatureSet::Calendar => longer(&cycles),
            FeatureSet::Year => longer(&cycles[3..]),
            FeatureSet::PytorchTs => {
                periods.fields().iter().map(|&field| Wave { cycle: Cycle::Field(field), harmonic: 1 }).collect()
            }
            FeatureSet::None => Vec::new(),
        };
        Self { periods: Some(periods), waves }
    }

    /// How many there are for each step.
    pub(super) fn count(&self) -> usize {
        2 * self.waves.len()
    }

    /// Those of a step, which may lie before the first one of its series; zeros where its time is not known.
    pub(super) fn of(&self, index: &Index, step: i64) -> Vec<f32> {
        let Some(periods) = self.periods else { return Vec::new() };
        let Index::Times { start, frequency } = *index else { return vec![0.0; self.count()] };
        let time = frequency.after(start, step);
        let waves = self.waves.iter().flat_map(|wave| {
            let angle = TAU * f64::from(wave.harmonic) * wave.cycle.share(time, periods);
            [angle.cos() as f32, angle.sin() as f32]
        });
        waves.collect()
    }
}

impl Cycle {
    /// How much of the cycle is over at this time.
    fn share(self, time: Timestamp, periods: Periods) -> f64 {
        let seconds = time.seconds();
        let of = |cycle: i64| seconds.rem_euclid(cycle) as f64 / cycle as f64;
        match self {
            Self::Hour => of(HOUR),
            Self::Day => of(DAY),
            // 1970-01-01 was a Thursday.
            Self::Week => (seconds + 3 * DAY).rem_euclid(WEEK) as f64 / WEEK as f64,
            Self::Year => {
                let day = Moment::from_days(seconds.div_euclid(DAY)).day_of_year();
                (f64::from(day - 1) + of(DAY)) / YEAR_DAYS
            }
            Self::Field(field) => {
                let moment = Moment::from_days(seconds.div_euclid(DAY)).plus_minutes(seconds.rem_euclid(DAY) / MINUTE);
                let first = periods.moments(moment, 1);
                let value = first.first().map_or(0, |first| periods.value(field, *first));
                f64::from(value) / f64::from(field.period())
            }
        }
    }
}

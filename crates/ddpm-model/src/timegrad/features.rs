//! What follows from the frequency of a series: its steps in the calendar, the time features and the lags that TimeGrad
//! reads.

use std::f64::consts::TAU;
use std::str::FromStr;

use super::calendar::Moment;

/// The unit of a frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Minutes.
    Minute,
    /// Hours.
    Hour,
    /// Days.
    Day,
    /// Days from Monday to Friday.
    BusinessDay,
    /// Weeks from Monday to Sunday.
    Week,
    /// Months.
    Month,
}

/// How far the steps of a series are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequency {
    /// The unit.
    pub unit: Unit,
    /// How many of them.
    pub multiple: u32,
}

impl FromStr for Frequency {
    type Err = String;

    /// Reads pandas' names, old and new: `H` or `h`, `D`, `B`, `W`, `M` or `ME`, `min` or `T`; a number may be in front, as
    /// in `30min`.
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("{text:?} is no frequency, expected min, H, D, B, W or M, or 30min and the like");
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (multiple, name) = text.split_at(digits);
        let multiple = if multiple.is_empty() { 1 } else { multiple.parse().map_err(|_| unknown())? };
        let unit = match name {
            "min" | "T" => Unit::Minute,
            "H" | "h" => Unit::Hour,
            "D" => Unit::Day,
            "B" => Unit::BusinessDay,
            "W" | "W-SUN" => Unit::Week,
            "M" | "ME" => Unit::Month,
            _ => return Err(unknown()),
        };
        if multiple == 0 { Err(unknown()) } else { Ok(Self { unit, multiple }) }
    }
}

impl Frequency {
    /// The first moments of the periods of a series, from the one that holds `start` on.
    pub fn moments(&self, start: Moment, count: usize) -> Vec<Moment> {
        let first = match self.unit {
            Unit::Minute => start,
            Unit::Hour => Moment { minute: 0, ..start },
            Unit::Day => Moment::from_days(start.days()),
            Unit::BusinessDay => Moment::from_days(business_day(business_days(start))),
            Unit::Week => Moment::from_days(start.days() - i64::from(start.day_of_week())),
            Unit::Month => start.plus_months(0),
        };
        let after = |steps: i64| match self.unit {
            Unit::Minute => first.plus_minutes(steps),
            Unit::Hour => first.plus_minutes(60 * steps),
            Unit::Day => first.plus_days(steps),
            Unit::BusinessDay => Moment::from_days(business_day(business_days(first) + steps)),
            Unit::Week => first.plus_days(7 * steps),
            Unit::Month => first.plus_months(steps),
        };
        (0..count as i64).map(|step| after(step * i64::from(self.multiple))).collect()
    }

    /// The calendar fields that become time features.
    pub fn fields(&self) -> &'static [Field] {
        match self.unit {
            Unit::Minute => &[Field::Minute, Field::Hour, Field::DayOfWeek],
            Unit::Hour => &[Field::Hour, Field::DayOfWeek],
            Unit::Day => &[Field::DayOfWeek],
            Unit::BusinessDay => &[Field::DayOfWeek, Field::DayOfYear],
            Unit::Week => &[Field::DaysInMonth, Field::WeekOfYear],
            Unit::Month => &[Field::WeekOfYear],
        }
    }

    /// How many steps back the values are that the recurrent network reads.
    pub fn lags(&self) -> &'static [usize] {
        match self.unit {
            Unit::Minute => &[1, 4, 12, 24, 48],
            Unit::Hour => &[1, 24, 168],
            Unit::Day => &[1, 7, 14],
            Unit::BusinessDay => &[1, 2],
            Unit::Week => &[1],
            Unit::Month => &[1, 12],
        }
    }

    /// A field of the period that starts at this moment: for weeks and months, of its last day.
    pub fn value(&self, field: Field, start: Moment) -> u32 {
        field.of(match self.unit {
            Unit::Week => start.plus_days(6),
            Unit::Month => start.plus_months(1).plus_days(-1),
            _ => start,
        })
    }

    /// The time features at these moments: for each field a row of cosines and then one of sines.
    pub fn time_features(&self, moments: &[Moment], periods: Periods) -> Vec<Vec<f64>> {
        let rows = |field: &Field| {
            let values: Vec<u32> = moments.iter().map(|&moment| self.value(*field, moment)).collect();
            let period = match periods {
                Periods::Calendar => field.period(),
                Periods::LargestValue => values.iter().copied().max().unwrap_or(0) + 1,
            };
            let angles = move |f: fn(f64) -> f64| {
                values.iter().map(|&value| f(TAU * f64::from(value) / f64::from(period))).collect::<Vec<f64>>()
            };
            [angles(f64::cos), angles(f64::sin)]
        };
        self.fields().iter().flat_map(rows).collect()
    }
}

/// What a time feature counts in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Periods {
    /// The calendar's: 24 hours, 7 days.
    #[default]
    Calendar,
    /// One more than the largest value among the moments given, as pytorch-ts has it: so the features of a moment depend
    /// on the series, and those of a forecast may differ from those of training.
    LargestValue,
}

/// A field of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// From 0.
    Minute,
    /// From 0.
    Hour,
    /// 0 on Mondays.
    DayOfWeek,
    /// From 1.
    DayOfYear,
    /// From 1, by ISO 8601.
    WeekOfYear,
    /// 28 to 31.
    DaysInMonth,
}

impl Field {
    /// Its value at a moment.
    pub fn of(self, moment: Moment) -> u32 {
        match self {
            Self::Minute => moment.minute,
            Self::Hour => moment.hour,
            Self::DayOfWeek => moment.day_of_week(),
            Self::DayOfYear => moment.day_of_year(),
            Self::WeekOfYear => moment.week_of_year(),
            Self::DaysInMonth => moment.days_in_month(),
        }
    }

    /// How many values it has.
    pub fn period(self) -> u32 {
        match self {
            Self::Minute => 60,
            Self::Hour => 24,
            Self::DayOfWeek => 7,
            Self::DayOfYear => 366,
            Self::WeekOfYear => 53,
            Self::DaysInMonth => 31,
        }
    }

    /// pandas' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfWeek => "dayofweek",
            Self::DayOfYear => "dayofyear",
            Self::WeekOfYear => "weekofyear",
            Self::DaysInMonth => "daysinmonth",
        }
    }
}

/// Days from Monday to Friday between the week of 1970-01-01 and a moment; a weekend counts as the Monday after it.
fn business_days(moment: Moment) -> i64 {
    let monday = moment.days() - i64::from(moment.day_of_week());
    // The Monday of the week of 1970-01-01 is three days before it.
    (monday + 3) / 7 * 5 + i64::from(moment.day_of_week().min(5))
}

/// The day that is this many business days after that Monday, in days since 1970-01-01.
fn business_day(count: i64) -> i64 {
    count.div_euclid(5) * 7 + count.rem_euclid(5) - 3
}

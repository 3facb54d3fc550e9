//! Calendar arithmetic in the Gregorian calendar, without time zones.

/// A minute of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// The year.
    pub year: i64,
    /// The month, from 1.
    pub month: u32,
    /// The day of the month, from 1.
    pub day: u32,
    /// The hour, from 0.
    pub hour: u32,
    /// The minute, from 0.
    pub minute: u32,
}

impl Moment {
    /// Midnight at the start of a day. Month and day must exist.
    pub fn midnight(year: i64, month: u32, day: u32) -> Self {
        Self { year, month, day, hour: 0, minute: 0 }
    }

    /// Reads `2014-12`, `2014-12-30`, `2014-12-30 21:00` or `2014-12-30T21:00:00`; what is left out is the earliest.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.trim().split_once(['T', ' ']).unwrap_or((text.trim(), "0:0"));
        let number = |part: Option<&str>, default: u32| part.map_or(Some(default), |part| part.trim().parse().ok());
        let mut date = date.splitn(3, '-');
        let year = date.next()?.parse().ok().filter(|year| (1..=9999).contains(year))?;
        let (month, day) = (number(date.next(), 1)?, number(date.next(), 1)?);
        let mut time = time.split(':');
        let (hour, minute) = (number(time.next(), 0)?, number(time.next(), 0)?);
        let exists = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        (exists && hour < 24 && minute < 60).then_some(Self { year, month, day, hour, minute })
    }

    /// Days since 1970-01-01.
    pub fn days(&self) -> i64 {
        // Years that start in March, so that the leap day is the last one (Hinnant, "chrono-compatible date algorithms").
        let year = self.year - i64::from(self.month <= 2);
        let month = (i64::from(self.month) + 9) % 12;
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }

    /// Midnight at the start of the day that is this many days after 1970-01-01.
    pub fn from_days(days: i64) -> Self {
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * month + 2) / 5 + 1) as u32;
        let month = (if month < 10 { month + 3 } else { month - 9 }) as u32;
        Self::midnight(era * 400 + year_of_era + i64::from(month <= 2), month, day)
    }

    /// This many days later, at the same time of day.
    pub fn plus_days(&self, days: i64) -> Self {
        Self { hour: self.hour, minute: self.minute, ..Self::from_days(self.days() + days) }
    }

    /// This many minutes later.
    pub fn plus_minutes(&self, minutes: i64) -> Self {
        let total = i64::from(60 * self.hour + self.minute) + minutes;
        let of_day = total.rem_euclid(24 * 60) as u32;
        let day = Self::from_days(self.days() + total.div_euclid(24 * 60));
        Self { hour: of_day / 60, minute: of_day % 60, ..day }
    }

    /// The first day of the month this many months later.
    pub fn plus_months(&self, months: i64) -> Self {
        let total = self.year * 12 + i64::from(self.month) - 1 + months;
        Self::midnight(total.div_euclid(12), total.rem_euclid(12) as u32 + 1, 1)
    }

    /// 0 on Mondays to 6 on Sundays.
    pub fn day_of_week(&self) -> u32 {
        // 1970-01-01 was a Thursday.
        (self.days() + 3).rem_euclid(7) as u32
    }

    /// 1 on the first of January.
    pub fn day_of_year(&self) -> u32 {
        (self.days() - Self::midnight(self.year, 1, 1).days() + 1) as u32
    }

    /// The week of ISO 8601, from 1: the one that holds its Thursday's year.
    pub fn week_of_year(&self) -> u32 {
        let thursday = self.plus_days(3 - i64::from(self.day_of_week()));
        (thursday.day_of_year() - 1) / 7 + 1
    }

    /// Days of the month.
    pub fn days_in_month(&self) -> u32 {
        days_in_month(self.year, self.month)
    }
}

fn days_in_month(year: i64, month: u32) -> u32 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

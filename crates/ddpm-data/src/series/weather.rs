//! The bundled weather: four years of days in Seattle (datasets/seattle-weather).

use std::path::Path;

use super::long::{Options, parse_long};
use super::{Series, SeriesError};

const FILE: &str = include_str!("../../../../datasets/seattle-weather/seattle-weather.csv");
const FILE_NAME: &str = "datasets/seattle-weather/seattle-weather.csv (bundled)";

/// Its variables: mm, degrees Celsius, degrees Celsius, m/s.
const VARIABLES: [&str; 4] = ["precipitation", "temp_max", "temp_min", "wind"];

/// Precipitation, temperatures and wind of 1,461 days from 2012-01-01 on. The word for the weather is left out.
pub fn seattle_weather() -> Result<Series, SeriesError> {
    let path = Path::new(FILE_NAME);
    let targets = VARIABLES.map(String::from).to_vec();
    let options = Options { item: None, time: "date".into(), targets, ..Options::default() };
    let mut series = parse_long(path, FILE, &options)?;
    // One item: without a column for it, there is one series.
    let Some(series) = series.pop() else {
        return Err(SeriesError::new(path, None, super::Problem::EmptyFile));
    };
    Ok(series)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_weather_is_daily_and_whole() {
        let series = seattle_weather().unwrap();
        assert_eq!((series.target.steps(), series.variables), (1461, VARIABLES.map(String::from).to_vec()));
        assert_eq!(series.index.timestamp(0).unwrap().to_string(), "2012-01-01T00:00:00");
        assert_eq!(series.index.timestamp(1460).unwrap().to_string(), "2015-12-31T00:00:00");
        let row = |step: usize| [0, 1, 2, 3].map(|variable| series.target.given(step, variable).unwrap());
        assert_eq!((row(1), row(1460)), ([10.9, 10.6, 2.8, 4.5], [0.0, 5.6, -2.1, 3.5]));
        let dry = (0..1461).filter(|step| row(*step)[0] == 0.0).count();
        assert_eq!(dry, 838);
    }
}

#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{DType, Device, Tensor};

use super::calendar::Moment;
use super::features::{Frequency, Periods};
use super::*;

fn convolution(residual_layers: usize, dilation_cycle: usize) -> DenoiserConfig {
    DenoiserConfig::Convolution(ConvolutionConfig { residual_layers, residual_channels: 2, dilation_cycle })
}

fn small() -> TimeGradConfig {
    TimeGradConfig {
        variables: 3,
        context_length: 4,
        prediction_length: 2,
        lags: vec![1, 3],
        time_features: 2,
        cells: 5,
        conditioning_length: 6,
        denoiser: convolution(2, 2),
        ..TimeGradConfig::default()
    }
}

#[test]
fn the_calendar_knows_leap_years_and_iso_weeks() {
    for days in (-800_000..800_000).step_by(997) {
        assert_eq!(Moment::from_days(days).days(), days);
    }
    let day = Moment::midnight;
    assert_eq!((day(1970, 1, 1).days(), day(2000, 3, 1).days()), (0, 11_017));
    assert_eq!((day(2020, 2, 29).plus_days(1), day(2100, 2, 28).plus_days(1)), (day(2020, 3, 1), day(2100, 3, 1)));
    // A year that begins in the last week of the one before, and one that ends in the first of the next.
    assert_eq!((day(2021, 1, 3).week_of_year(), day(2018, 12, 31).week_of_year()), (53, 1));
    assert_eq!((day(2020, 12, 31).day_of_year(), day(2019, 12, 31).day_of_year()), (366, 365));
    assert_eq!(day(2020, 1, 1).plus_minutes(-1), Moment { hour: 23, minute: 59, ..day(2019, 12, 31) });
}

#[test]
fn dates_that_do_not_exist_are_refused() {
    assert_eq!(Moment::parse("2019-11"), Some(Moment::midnight(2019, 11, 1)));
    let evening = Moment { hour: 21, minute: 5, ..Moment::midnight(2014, 12, 30) };
    assert_eq!(Moment::parse("2014-12-30 21:05"), Some(evening));
    assert_eq!(Moment::parse("2014-12-30T21:05:00"), Some(evening));
    for text in ["", "2019-02-29", "2019-13-01", "2019-1-0", "2019-01-01 24:00", "99999999999999-01", "noon"] {
        assert_eq!(Moment::parse(text), None, "{text}");
    }
}

#[test]
fn frequencies_are_read_by_the_names_of_pandas() {
    let lags = |text: &str| text.parse::<Frequency>().unwrap().lags();
    assert_eq!((lags("H"), lags("h")), (lags("1h"), &[1, 24, 168][..]));
    assert_eq!((lags("30min"), lags("M")), (lags("T"), lags("ME")));
    for text in ["", "0H", "Q", "H2", "99999999999D"] {
        let error = text.parse::<Frequency>().unwrap_err();
        assert!(error.contains("is no frequency, expected"), "{error}");
    }
}

#[test]
fn a_weekend_is_left_out_of_business_days() {
    let days = "B".parse::<Frequency>().unwrap().moments(Moment::midnight(2016, 2, 25), 4);
    let wanted = [(2, 25), (2, 26), (2, 29), (3, 1)].map(|(month, day)| Moment::midnight(2016, month, day));
    assert_eq!(days, wanted);
    let late = "B".parse::<Frequency>().unwrap().moments(Moment::midnight(1969, 12, 27), 2);
    assert_eq!(late, [Moment::midnight(1969, 12, 29), Moment::midnight(1969, 12, 30)]);
}

#[test]
fn features_by_the_calendar_depend_on_the_moment_alone() {
    let hourly: Frequency = "H".parse().unwrap();
    let features = |count, periods| {
        let rows = hourly.time_features(&hourly.moments(Moment::midnight(2020, 1, 1), count), periods);
        rows.into_iter().map(|row| row[5]).collect::<Vec<f64>>()
    };
    assert_eq!(features(6, Periods::Calendar), features(500, Periods::Calendar));
    assert_ne!(features(6, Periods::LargestValue), features(500, Periods::LargestValue));
    assert_eq!(features(500, Periods::LargestValue), features(500, Periods::Calendar));
}

#[test]
fn every_problem_of_a_config_is_named() {
    assert_eq!(small().problems(), vec![]);
    let keys = |config: TimeGradConfig| config.problems().into_iter().map(|p| p.key).collect::<Vec<String>>();
    let config = TimeGradConfig { variables: 1, layers: 0, lags: vec![0], dropout: 1.0, ..small() };
    assert_eq!(keys(config), ["layers", "denoiser.kind", "lags", "dropout"]);
    // Three variables make a circle of seven, around which a padding of eight would go more than once.
    let deep = |dilation_cycle| TimeGradConfig { denoiser: convolution(9, dilation_cycle), ..small() };
    assert_eq!(
        (keys(deep(3)), keys(deep(4)), keys(deep(70))),
        (vec![], vec!["denoiser.dilation_cycle".into()], vec!["denoiser.dilation_cycle".into()])
    );
    assert!(matches!(TimeGradConfig::default().init(&Device::default()), Err(NetworkError::Config { .. })));
}

#[test]
fn windows_that_do_not_fit_are_refused() {
    let (config, rows) = (small(), vec![vec![0.0; 12]; 2]);
    let (values, observed) = ([1.0; 30], [true; 30]);
    let series = Series { values: &values, observed: &observed, time_features: &rows };
    assert!(Window::with_future(&series, 8, &config).is_ok() && Window::before_forecast(&series, 10, &config).is_ok());
    assert_eq!(
        Window::with_future(&series, 9, &config),
        Err(WindowError::End { end: 9, steps: 10, future: 2 }),
        "the future would end after the series"
    );
    let short = vec![vec![0.0; 11]; 2];
    let error = Window::before_forecast(&Series { time_features: &short, ..series }, 10, &config).unwrap_err();
    assert!(error.to_string().contains("a time feature has 11 values, expected 12"), "{error}");
    let error = Window::with_future(&Series { values: &values[..29], ..series }, 4, &config).unwrap_err();
    assert!(error.to_string().contains("the series has 29 values, expected 27"), "{error}");
}

#[test]
fn a_variable_without_observations_has_the_scale_of_the_other_rows() {
    let device = Device::default();
    let values = Tensor::<3>::from_floats([[[2.0, 5.0], [-4.0, 7.0]], [[9.0, 0.0], [9.0, 0.0]]], &device);
    let observed = Tensor::from_floats([[[1.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], &device);
    let scale: Vec<f32> = mean_scale(values, observed).into_data().try_to_vec().unwrap();
    // For the second variable of the second row all is 0: the mean over the three observed steps.
    for (found, wanted) in scale.iter().zip([3.0, 5.0, 3.0, 5.0 / 3.0]) {
        assert!((found - wanted).abs() < 1e-6, "{scale:?}");
    }
}

#[test]
fn a_forecast_reads_what_it_has_sampled() {
    let device = Device::default();
    device.seed(1);
    let network = small().init(&device).unwrap();
    let (values, observed, rows) = ([1.0; 30], [true; 30], vec![vec![0.5; 12]; 2]);
    let series = Series { values: &values, observed: &observed, time_features: &rows };
    let window = Window::before_forecast(&series, 10, network.config()).unwrap();
    let windows = Windows::batch(&[window], network.config(), &device, DType::F32);
    assert!(network.read(&windows, network.scale(&windows)).is_none(), "no future is known");
    let second = |sample: f32| {
        let mut forecast = network.start_forecast(&windows, network.scale(&windows)).repeated(2);
        assert_eq!(network.next_condition(&mut forecast).unwrap().dims(), [2, 1, 6]);
        forecast.push(Tensor::full([2, 1, 3], sample, &device));
        let condition = network.next_condition(&mut forecast).unwrap();
        forecast.push(Tensor::zeros([2, 1, 3], &device));
        assert!(network.next_condition(&mut forecast).is_none(), "two steps were asked for");
        condition.into_data()
    };
    assert_ne!(second(0.0), second(3.0));
}

#[test]
fn dropout_acts_between_layers_while_training_only() {
    let differs = |device: Device, layers: usize| {
        device.seed(3);
        let network = TimeGradConfig { dropout: 0.5, layers, ..small() }.init(&device).unwrap();
        let inputs = Tensor::ones([4, 3, network.config().input_size()], &device);
        let run = || network.rnn.forward(inputs.clone(), None, &network.dropout).0.into_data();
        run() != run()
    };
    assert!(differs(Device::default().autodiff(), 2));
    assert!(!differs(Device::default().autodiff(), 1) && !differs(Device::default(), 2));
}

//! Figures of measurements: medians over rounds, and what they are between two sides.

use serde::Serialize;

use crate::generator::{self, Latencies, Outcome, Pace};
use crate::table::{median, tenths, whole};

/// One measurement of one side, or the medians of several.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p90_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) p999_micros: f64,
    /// User and system time of the server's process tree.
    pub(crate) cpu_micros_per_request: f64,
    pub(crate) answers: f64,
    pub(crate) failures: f64,
    /// At a fixed rate: due, but no connection was free until the end.
    pub(crate) unasked: f64,
    pub(crate) generator_busy: f64,
    pub(crate) generator_late_p99_micros: f64,
    /// The generator may have been what was measured.
    pub(crate) generator_limits: bool,
    pub(crate) first_failure: Option<String>,
    /// All of them.
    #[serde(skip)]
    pub(crate) latencies: Option<Latencies>,
}

/// The figures that are compared.
type Column = fn(&Figures) -> f64;

const COMPARED: [Column; 6] = [
    |figures| figures.requests_per_second,
    |figures| figures.p50_micros,
    |figures| figures.p90_micros,
    |figures| figures.p99_micros,
    |figures| figures.p999_micros,
    |figures| figures.cpu_micros_per_request,
];

/// A over B, each the median of the rounds' ratios: what disturbed one round disturbed both of its sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Ratios {
    pub(crate) requests_per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) cpu_per_request: f64,
}

impl Figures {
    pub(crate) fn new(outcome: &Outcome, pace: Pace, cpu_micros: f64) -> Self {
        Self {
            requests_per_second: outcome.per_second(),
            p50_micros: outcome.micros(0.5),
            p90_micros: outcome.micros(0.9),
            p99_micros: outcome.micros(0.99),
            p999_micros: outcome.micros(0.999),
            cpu_micros_per_request: cpu_micros / outcome.completed as f64,
            answers: outcome.completed as f64,
            failures: outcome.failures as f64,
            unasked: outcome.unasked as f64,
            generator_busy: outcome.busy,
            generator_late_p99_micros: outcome.late_p99_micros,
            generator_limits: outcome.generator_limits(pace),
            first_failure: outcome.first_failure.clone(),
            latencies: Some(outcome.latencies.clone()),
        }
    }

    /// Why this is no measurement: what was answered wrongly or not at all.
    pub(crate) fn failed(&self) -> Option<String> {
        let Self { answers, failures, first_failure, .. } = self;
        if *failures > 0.0 {
            let first = first_failure.as_deref().unwrap_or("unknown");
            return Some(format!(
                "{failures} of {} requests failed, the first with: {first}",
                answers + failures
            ));
        }
        (*answers == 0.0).then(|| "no request was answered".to_owned())
    }

    /// Of all requests, whichever round they were in: with the rounds that a median leaves out.
    pub(crate) fn p99_micros_of_all(&self) -> f64 {
        self.latencies.as_ref().map_or(f64::NAN, |all| generator::micros(all, 0.99))
    }

    /// Medians; answers, failures and what was not asked are added up.
    pub(crate) fn medians(rounds: &[Self]) -> Self {
        let middle = |column: Column| median(&rounds.iter().map(column).collect::<Vec<_>>());
        Self {
            requests_per_second: middle(COMPARED[0]),
            p50_micros: middle(COMPARED[1]),
            p90_micros: middle(COMPARED[2]),
            p99_micros: middle(COMPARED[3]),
            p999_micros: middle(COMPARED[4]),
            cpu_micros_per_request: middle(COMPARED[5]),
            answers: rounds.iter().map(|round| round.answers).sum(),
            failures: rounds.iter().map(|round| round.failures).sum(),
            unasked: rounds.iter().map(|round| round.unasked).sum(),
            generator_busy: middle(|round| round.generator_busy),
            generator_late_p99_micros: middle(|round| round.generator_late_p99_micros),
            generator_limits: rounds.iter().filter(|round| round.generator_limits).count() * 2 > rounds.len(),
            first_failure: rounds.iter().find_map(|round| round.first_failure.clone()),
            latencies: rounds.iter().filter_map(|round| round.latencies.clone()).reduce(|mut all, round| {
                all += round;
                all
            }),
        }
    }

    pub(crate) fn tail(&self) -> f64 {
        self.p99_micros / self.p50_micros
    }

    /// Cells of a row, behind its name.
    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            whole(self.requests_per_second),
            whole(self.p50_micros),
            whole(self.p90_micros),
            whole(self.p99_micros),
            whole(self.p999_micros),
            tenths(self.tail()),
            tenths(self.cpu_micros_per_request),
            if self.generator_busy.is_nan() {
                "–".to_owned()
            } else {
                format!("{:.0}%", self.generator_busy * 100.0)
            },
            whole(self.unasked),
        ]
    }
}

impl Ratios {
    pub(crate) fn of(a: &[Figures], b: &[Figures]) -> Self {
        let ratio = |column: Column| {
            let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| column(a) / column(b)).collect();
            median(&ratios)
        };
        Self {
            requests_per_second: ratio(COMPARED[0]),
            p50: ratio(COMPARED[1]),
            p90: ratio(COMPARED[2]),
            p99: ratio(COMPARED[3]),
            p999: ratio(COMPARED[4]),
            cpu_per_request: ratio(COMPARED[5]),
        }
    }

    /// Cells of a row, behind its name.
    pub(crate) fn cells(&self) -> Vec<String> {
        let times = |ratio: f64| if ratio.is_finite() { format!("{ratio:.2}×") } else { "–".to_owned() };
        vec![
            times(self.requests_per_second),
            times(self.p50),
            times(self.p90),
            times(self.p99),
            times(self.p999),
            String::new(),
            times(self.cpu_per_request),
            String::new(),
            String::new(),
        ]
    }
}

/// The columns of [`Figures::cells`] and [`Ratios::cells`].
pub(crate) const HEADER: [&str; 10] = [
    "",
    "req/s",
    "p50 µs",
    "p90 µs",
    "p99 µs",
    "p99.9 µs",
    "p99/p50",
    "CPU µs/req",
    "generator",
    "not asked",
];

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    fn figures(rate: f64, cpu: f64) -> Figures {
        Figures {
            requests_per_second: rate,
            p50_micros: 10.0,
            p90_micros: 20.0,
            p99_micros: 60.0,
            p999_micros: 100.0,
            cpu_micros_per_request: cpu,
            answers: 9.0,
            failures: 1.0,
            unasked: 2.0,
            generator_busy: 0.5,
            generator_late_p99_micros: 0.0,
            generator_limits: rate > 250.0,
            first_failure: None,
            latencies: None,
        }
    }

    #[test]
    fn a_bad_round_that_the_median_leaves_out_is_among_all() {
        let round = |p99: u64| {
            let mut latencies = crate::generator::latencies().unwrap();
            latencies.record_n(1_000, 95).unwrap();
            latencies.record_n(p99 * 1_000, 5).unwrap();
            Figures { latencies: Some(latencies), p99_micros: p99 as f64, ..figures(100.0, 1.0) }
        };
        let middle = Figures::medians(&[round(20), round(9000), round(20)]);
        assert_eq!(whole(middle.p99_micros), "20");
        assert!((middle.p99_micros_of_all() - 9000.0).abs() < 10.0, "{}", middle.p99_micros_of_all());
    }

    #[test]
    fn ratios_are_medians_of_the_rounds_and_not_of_the_sides() {
        // The medians of the sides are 200 and 100; of the rounds' ratios 1.
        let a = [figures(100.0, 1.0), figures(200.0, 2.0), figures(300.0, 3.0)];
        let b = [figures(100.0, 2.0), figures(50.0, 2.0), figures(300.0, 2.0)];
        let ratios = Ratios::of(&a, &b);
        assert_eq!((ratios.requests_per_second, ratios.cpu_per_request), (1.0, 1.0));
        assert_eq!(Figures::medians(&a).requests_per_second, 200.0);
    }

    #[test]
    fn a_ratio_is_a_over_b_in_every_column() {
        let half = Figures {
            p50_micros: 20.0,
            p90_micros: 80.0,
            p99_micros: 20.0,
            p999_micros: 400.0,
            ..figures(50.0, 8.0)
        };
        let ratios = Ratios::of(&[figures(100.0, 2.0)], &[half]);
        let wanted = Ratios {
            requests_per_second: 2.0,
            p50: 0.5,
            p90: 0.25,
            p99: 3.0,
            p999: 0.25,
            cpu_per_request: 0.25,
        };
        assert_eq!(ratios, wanted);
        assert_eq!(ratios.cells()[..4], ["2.00×", "0.50×", "0.25×", "3.00×"]);
        // Nothing to divide by.
        assert_eq!(Ratios::of(&[figures(1.0, 2.0)], &[figures(1.0, 0.0)]).cells()[6], "–");
    }

    #[test]
    fn cpu_time_is_shared_out_among_all_answers_and_throughput_counts_those_in_time() {
        let mut histogram = crate::generator::latencies().unwrap();
        histogram.record(2_000_000).unwrap();
        let outcome = Outcome {
            answered: 80,
            completed: 100,
            seconds: 2.0,
            latencies: histogram,
            failures: 0,
            unasked: 0,
            first_failure: None,
            busy: 0.99,
            late_p99_micros: 0.0,
        };
        let figures = Figures::new(&outcome, Pace::Closed, 5_000.0);
        assert_eq!((figures.requests_per_second, figures.cpu_micros_per_request), (40.0, 50.0));
        assert!((figures.p50_micros - 2_000.0).abs() <= 2.0 && figures.generator_limits);
        assert!(!Figures::new(&outcome, Pace::Rate(1.0), 0.0).generator_limits);
        assert_eq!(figures.failed(), None);
    }

    #[test]
    fn failures_and_silence_are_said() {
        let with = |failures: f64, answers: f64| Figures { failures, answers, ..figures(1.0, 1.0) }.failed();
        assert!(with(1.0, 9.0).unwrap().starts_with("1 of 10 requests failed"));
        assert!(with(0.0, 0.0).unwrap().contains("no request was answered"));
        assert_eq!(with(0.0, 9.0), None);
    }

    #[test]
    fn failures_add_up_and_most_rounds_decide_about_the_generator() {
        let all = Figures::medians(&[figures(100.0, 1.0), figures(200.0, 1.0), figures(300.0, 1.0)]);
        assert_eq!((all.failures, all.unasked, all.generator_limits), (3.0, 6.0, false));
        assert!(Figures::medians(&[figures(300.0, 1.0)]).generator_limits);
        assert_eq!(all.tail(), 6.0);
        assert_eq!(all.cells().len() + 1, HEADER.len());
    }
}

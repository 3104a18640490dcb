//! Scenario 9 for long: load at a constant rate, and whether memory grows under it.

use std::time::{Duration, Instant};

use ::tests::load::{self, Report};

use crate::process::LogKind;
use crate::run::{Results, Setting};
use crate::scenarios::{CHAT_PROMPT, MODEL, at_once, target};
use crate::table::{errors, line, show};

/// Connections of the load: many more than are busy at the default rate.
const CONNECTIONS: usize = 64;
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Time after which memory may not grow any more, in seconds.
const SETTLED_AFTER: f64 = 300.0;

/// One hour, or as long as was asked for, of load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Soak {
    /// Requests a second that were due.
    rate: f64,
    /// Seconds since the begin, and proportional set size in MiB then.
    pss_mib: Vec<(f64, f64)>,
    report: Report,
}

/// Sends `rate` requests a second to an installation of its own on the embedded log. A closed loop would fill the disk in an
/// hour, and a faster Lockgate would have more to remember.
pub(crate) async fn measure(setting: &Setting, rate: f64, lasts: Duration) -> anyhow::Result<Soak> {
    let installation = setting.install(&LogKind::Embedded, "full").await?;
    let running = installation.start(setting.lockgate_core).await?;
    let target = target(setting, Some(&installation), MODEL, CHAT_PROMPT, false);
    let begun = Instant::now();
    let mut pss_mib = Vec::new();
    let load = load::constant_rate(&target, rate, CONNECTIONS, at_once(lasts));
    let mut load = std::pin::pin!(load);
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    let report = loop {
        tokio::select! {
            report = &mut load => break report?,
            _ = tick.tick() => pss_mib.push((begun.elapsed().as_secs_f64(), running.pss_mib()?)),
        }
    };
    pss_mib.push((begun.elapsed().as_secs_f64(), running.pss_mib()?));
    running.stop().await?;
    Ok(Soak {
        rate,
        pss_mib,
        report,
    })
}

/// The table of the long load.
pub(crate) fn section(out: &mut String, results: &Results) {
    let Some(soak) = &results.soak else {
        return;
    };
    let settled = soak
        .pss_mib
        .iter()
        .position(|(at, _)| *at >= SETTLED_AFTER)
        .map_or(&[][..], |index| &soak.pss_mib[index..]);
    let most = settled.iter().map(|(_, mib)| *mib).max_by(f64::total_cmp);
    line(
        out,
        format_args!("## Memory under long load (scenario 9)\n"),
    );
    line(
        out,
        format_args!(
            "{:.0} s of {} requests a second on the embedded log; the growth is fitted by least squares to what was seen after {SETTLED_AFTER} s.\n",
            soak.report.seconds, soak.rate,
        ),
    );
    line(
        out,
        format_args!(
            "| req/s | errors | MiB after {SETTLED_AFTER} s | most after that | in the end | growth MiB an hour |"
        ),
    );
    line(out, format_args!("|---|---|---|---|---|---|"));
    line(
        out,
        format_args!(
            "| {:.0} | {} | {} | {} | {} | {} |\n",
            soak.report.per_second,
            errors([&soak.report.errors]),
            show(settled.first().map(|(_, mib)| *mib), 1),
            show(most, 1),
            show(soak.pss_mib.last().map(|(_, mib)| *mib), 1),
            show(slope(settled).map(|per_second| per_second * 3_600.0), 2),
        ),
    );
}

/// The slope of the straight line that comes nearest to the points in the sum of squares; none
/// through fewer than two.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "some hundreds of samples")]
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut products, mut squares) = (0.0, 0.0);
    for (x, y) in points {
        products += (x - mean_x) * (y - mean_y);
        squares += (x - mean_x).powi(2);
    }
    (squares > 0.0).then(|| products / squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_nearest_line() {
        let near = |slope: Option<f64>, expected: f64| (slope.unwrap() - expected).abs() < 1e-9;
        assert!(near(
            slope(&[(300.0, 90.0), (310.0, 91.0), (320.0, 92.0)]),
            0.1
        ));
        // A peak in the middle is no growth.
        assert!(near(slope(&[(0.0, 5.0), (1.0, 9.0), (2.0, 5.0)]), 0.0));
        assert!(near(
            slope(&[(0.0, 1.0), (1.0, 0.0), (2.0, 2.0), (3.0, 3.0)]),
            0.8
        ));
        assert_eq!(slope(&[(300.0, 90.0)]), None);
        assert_eq!(slope(&[]), None);
    }

    #[test]
    fn only_what_comes_after_the_first_minutes_is_growth() {
        let samples = [
            (0.0, 40.0),
            (290.0, 99.0),
            (300.0, 80.0),
            (1_200.0, 84.0),
            (2_100.0, 81.0),
        ];
        let soak = Soak {
            rate: 1_000.0,
            pss_mib: samples.into(),
            report: Report {
                per_second: 999.6,
                seconds: 2_100.0,
                ..Report::default()
            },
        };
        let results = Results {
            soak: Some(soak),
            ..Results::default()
        };
        let mut out = String::new();
        section(&mut out, &results);
        assert!(out.contains("2100 s of 1000 requests a second"), "{out}");
        // One MiB in the half hour between the first and the last, and two in an hour.
        assert!(
            out.contains("| 1000 | 0 | 80.0 | 84.0 | 81.0 | 2.00 |"),
            "{out}"
        );
    }

    #[test]
    fn a_short_run_shows_where_it_ended_and_no_growth() {
        let results = Results {
            soak: Some(Soak {
                pss_mib: vec![(0.0, 40.0), (60.0, 70.0)],
                ..Soak::default()
            }),
            ..Results::default()
        };
        let mut out = String::new();
        section(&mut out, &results);
        assert!(out.contains("| 0 | 0 | – | – | 70.0 | – |"), "{out}");
    }
}

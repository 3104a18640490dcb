//! What failover costs: the time that it adds to a first token, and what clients see of a deployment
//! that always fails.

use std::time::Duration;

use ::tests::load::{self, Errors, Quantiles, Report, StreamReport};
use ::tests::mock::Snapshot;
use anyhow::Context as _;

use crate::process::Installation;
use crate::run::{Results, Setting};
use crate::scenarios::{at_once, millis, target};
use crate::table::{NONE, difference, errors, line, median, show};

/// Model whose second deployment answers whatever the prompt says, while the first obeys it.
pub(crate) const IN_TIERS: &str = "bench-tiers";
/// Model with three good deployments.
pub(crate) const GOOD: &str = "bench-good";
/// Model with two good deployments and one that always fails.
pub(crate) const FAILING: &str = "bench-failing";

const STREAM_TOKENS: u64 = 2;
const STREAM_PROMPT: &str = "mock:tokens=2,delay=2ms";
/// The same, refused by a deployment that obeys it.
const REFUSED_PROMPT: &str = "mock:tokens=2,delay=2ms,status=500";
/// Plain streams for each that fails over: with one failure in five calls the first deployment stays
/// healthy (a quarter makes it degraded) and all failovers are within the budget for retries.
const PLAIN_IN_A_ROW: usize = 4;
/// Chats a second over three deployments.
const RATE: f64 = 200.0;
const RATE_CONNECTIONS: usize = 64;
/// A good answer takes as long as a refusal, so that an attempt's time is one figure.
const CHAT_PROMPT: &str = "mock:tokens=8,first=20ms";
const REFUSED_CHAT_PROMPT: &str = "mock:first=20ms,status=500";
/// Long enough for the middle of some refusals of 20 ms.
const ATTEMPTS_MEASURED: Duration = Duration::from_secs(1);

/// What one installation showed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failover {
    /// Streams that the first deployment answered.
    plain: StreamReport,
    /// Streams that it refused.
    over: StreamReport,
    /// The same refusals without Lockgate.
    refused: Quantiles,
    /// Calls of the upstream beyond one for each stream.
    stream_retries: u64,
    /// Chats over three good deployments.
    good: Report,
    /// Chats while one of the three always fails.
    failing: Report,
    /// Calls of the upstream beyond one for each of these.
    chat_retries: u64,
    /// One failed attempt at a chat, without Lockgate.
    attempt: Quantiles,
}

/// Measures both, through a running Lockgate.
pub(crate) async fn measure(
    setting: &Setting,
    installation: &Installation,
) -> anyhow::Result<Failover> {
    let through = Some(installation);
    let turns = [
        (
            target(setting, through, IN_TIERS, STREAM_PROMPT, true),
            PLAIN_IN_A_ROW,
        ),
        (target(setting, through, IN_TIERS, REFUSED_PROMPT, true), 1),
        (target(setting, None, IN_TIERS, REFUSED_PROMPT, true), 1),
    ];
    load::streams_in_turn(&turns, STREAM_TOKENS, setting.warm_up).await?;
    let before = calls(setting).await?;
    let reports = load::streams_in_turn(&turns, STREAM_TOKENS, setting.measured).await?;
    let after = calls(setting).await?;
    let [plain, over, refused]: [_; 3] = reports.try_into().ok().context("three reports")?;
    let streams: u64 = [&plain, &over, &refused].map(sent).iter().sum();

    let chats = |model| target(setting, through, model, CHAT_PROMPT, false);
    let span = at_once(setting.measured);
    let good = load::constant_rate(&chats(GOOD), RATE, RATE_CONNECTIONS, span).await?;
    let before_failing = calls(setting).await?;
    let failing = load::constant_rate(&chats(FAILING), RATE, RATE_CONNECTIONS, span).await?;
    let after_failing = calls(setting).await?;
    let answered = failing.latency.count + count(&failing.errors);

    let refusal = (target(setting, None, FAILING, REFUSED_CHAT_PROMPT, true), 1);
    let attempts = load::streams_in_turn(&[refusal], STREAM_TOKENS, ATTEMPTS_MEASURED).await?;
    Ok(Failover {
        plain,
        over,
        refused: refused.refused,
        stream_retries: (after - before).saturating_sub(streams),
        good,
        failing,
        chat_retries: (after_failing - before_failing).saturating_sub(answered),
        attempt: attempts.first().context("a report")?.refused,
    })
}

/// Calls that the upstream has had so far.
async fn calls(setting: &Setting) -> anyhow::Result<u64> {
    let url = format!("http://{}/_mock/calls", setting.upstream);
    let snapshot: Snapshot = reqwest::get(url).await?.json().await?;
    Ok(snapshot.total)
}

fn sent(report: &StreamReport) -> u64 {
    report.streams + count(&report.errors)
}

fn count(errors: &Errors) -> u64 {
    errors.values().sum()
}

/// Both tables.
pub(crate) fn section(out: &mut String, results: &Results) {
    if results.failover.is_empty() {
        return;
    }
    line(out, format_args!("## Failover\n"));
    streams(out, results);
    chats(out, results);
    out.push('\n');
}

fn streams(out: &mut String, results: &Results) {
    line(
        out,
        format_args!(
            "Streams, one at a time: the first deployment refuses each fifth at once, the second takes it. Added: time to the first token \
             when failed over, without that of a plain stream and without the median of such a refusal by the upstream itself, all in turn.\n"
        ),
    );
    line(
        out,
        format_args!(
            "| log | first token p50 / p99 ms | failed over p50 / p99 ms | a refusal p50 / p99 ms | added p50 / p99 ms | retries / failed over | errors |"
        ),
    );
    line(out, format_args!("|---|---|---|---|---|---|---|"));
    for (subject, rounds) in &results.failover {
        let both = |figure: fn(&Failover) -> (f64, f64)| {
            let [p50, p99] = [
                median(rounds, |r| figure(r).0),
                median(rounds, |r| figure(r).1),
            ];
            (p50, p99)
        };
        let plain = both(|r| millis(&r.plain.first_token));
        let over = both(|r| millis(&r.over.first_token));
        let refused = both(|r| millis(&r.refused));
        let added = [(over.0, plain.0), (over.1, plain.1)]
            .map(|(over, plain)| difference(difference(over, plain), refused.0));
        line(
            out,
            format_args!(
                "| {} | {} / {} | {} / {} | {} / {} | {} / {} | {} / {} | {} |",
                subject.name(),
                show(plain.0, 2),
                show(plain.1, 2),
                show(over.0, 2),
                show(over.1, 2),
                show(refused.0, 2),
                show(refused.1, 2),
                show(added[0], 2),
                show(added[1], 2),
                rounds.iter().map(|r| r.stream_retries).sum::<u64>(),
                rounds.iter().map(|r| sent(&r.over)).sum::<u64>(),
                errors(
                    rounds
                        .iter()
                        .flat_map(|r| [&r.plain.errors, &r.over.errors])
                ),
            ),
        );
    }
}

fn chats(out: &mut String, results: &Results) {
    line(
        out,
        format_args!(
            "\n{RATE} chats a second over three deployments of one model, each attempt 20 ms, with the default rules of health and from the first failure on.\n"
        ),
    );
    line(
        out,
        format_args!(
            "| log | deployments | req/s | p50 ms | p99 ms | max ms | added p99 ms | one attempt p50 ms | retries | errors |"
        ),
    );
    line(
        out,
        format_args!("|---|---|---|---|---|---|---|---|---|---|"),
    );
    for (subject, rounds) in &results.failover {
        let p99 =
            |report: fn(&Failover) -> &Report| median(rounds, |r| millis(&report(r).latency).1);
        let slower = difference(p99(|r| &r.failing), p99(|r| &r.good));
        for fails in [false, true] {
            let name = if fails {
                "one of three always fails"
            } else {
                "three good"
            };
            let report: fn(&Failover) -> &Report = if fails { |r| &r.failing } else { |r| &r.good };
            let attempt = median(rounds, |r| millis(&r.attempt).0).filter(|_| fails);
            let retries = rounds.iter().map(|r| r.chat_retries).sum::<u64>();
            line(
                out,
                format_args!(
                    "| {} | {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    subject.name(),
                    show(median(rounds, |r| report(r).per_second), 0),
                    show(median(rounds, |r| millis(&report(r).latency).0), 1),
                    show(p99(report), 1),
                    show(median(rounds, |r| report(r).latency.max_us / 1_000.0), 1),
                    show(slower.filter(|_| fails), 1),
                    show(attempt, 1),
                    if fails {
                        retries.to_string()
                    } else {
                        NONE.into()
                    },
                    errors(rounds.iter().map(|r| &report(r).errors)),
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Subject;

    fn times(p50_us: f64, p99_us: f64) -> Quantiles {
        Quantiles {
            count: 1,
            p50_us,
            p99_us,
            max_us: p99_us,
        }
    }

    #[test]
    fn what_failover_adds_is_without_the_plain_stream_and_the_refusal() {
        let stream = |first_token| StreamReport {
            streams: 7,
            first_token,
            ..StreamReport::default()
        };
        let report = |latency| Report {
            latency,
            ..Report::default()
        };
        let mut results = Results::default();
        results.failover.insert(
            Subject::Embedded,
            vec![Failover {
                plain: stream(times(1_000.0, 2_000.0)),
                over: stream(times(1_500.0, 4_000.0)),
                refused: times(200.0, 900.0),
                stream_retries: 6,
                good: report(times(21_000.0, 25_000.0)),
                failing: report(times(22_000.0, 41_000.0)),
                chat_retries: 11,
                attempt: times(20_500.0, 21_000.0),
            }],
        );
        let mut out = String::new();
        section(&mut out, &results);
        let streams =
            "| embedded log | 1.00 / 2.00 | 1.50 / 4.00 | 0.20 / 0.90 | 0.30 / 1.80 | 6 / 7 | 0 |";
        assert!(out.contains(streams), "{out}");
        let good = "| embedded log | three good | 0 | 21.0 | 25.0 | 25.0 | – | – | – | 0 |";
        assert!(out.contains(good), "{out}");
        let failing =
            "| one of three always fails | 0 | 22.0 | 41.0 | 41.0 | 16.0 | 20.5 | 11 | 0 |";
        assert!(out.contains(failing), "{out}");
    }
}

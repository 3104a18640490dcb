//! The results as Markdown.

use std::fmt::Write as _;
use std::process::Command;

use ::tests::load::{Errors, Quantiles};

use crate::failover;
use crate::log::WIDTHS;
use crate::run::{CONCURRENCIES, Results, Setting, Subject};
use crate::scenarios::{Chat, Stream, millis};
use crate::soak;

const SUBJECTS: [Subject; 3] = [Subject::Direct, Subject::Embedded, Subject::Kafka];
/// Where a figure is missing.
pub(crate) const NONE: &str = "–";

pub(crate) fn render(setting: &Setting, results: &Results) -> String {
    let mut out = String::new();
    let sections = [
        chat,
        streams,
        failover::section,
        memory,
        soak::section,
        starts,
        log_alone,
    ];
    header(&mut out, setting, results);
    for section in sections {
        section(&mut out, results);
    }
    not_run(&mut out, results);
    out
}

/// Writing to a string cannot fail; this says so once.
pub(crate) fn line(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    if out.write_fmt(arguments).is_ok() {
        out.push('\n');
    }
}

fn header(out: &mut String, setting: &Setting, results: &Results) {
    let (rounds, measured) = (setting.rounds, setting.measured.as_secs_f64());
    line(out, format_args!("# Benchmarks\n"));
    line(
        out,
        format_args!(
            "Written by `make bench`. Machines are noisy: compare the ratios, all from one run.\n"
        ),
    );
    line(out, format_args!("- Machine: {}", machine()));
    line(out, format_args!("- Commit: {}", results.commit));
    if let Some(sync) = results.disk_sync {
        let (p50, p99) = millis(&sync);
        line(
            out,
            format_args!("- Disk: `fdatasync` of 4 KiB p50 {p50:.2} ms, p99 {p99:.2} ms"),
        );
    }
    line(
        out,
        format_args!(
            "- Method: medians of {rounds} rounds, {measured} s each after {} s of warm-up; {}. \
         `direct` is the load generator against the mock upstream. A chat is accepted durably \
         (synced to disk, or acknowledged by all replicas) before its first byte; key check and results sink are on. \
         On Kafka one round went before, to warm up the broker.\n",
            setting.warm_up.as_secs_f64(),
            match setting.lockgate_core {
                Some(core) => format!(
                    "Lockgate, all roles, on core {core}; mock upstream and load generator (and broker) on core 0"
                ),
                None => "processes not pinned".into(),
            },
        ),
    );
}

fn chat(out: &mut String, results: &Results) {
    if results.chat.is_empty() {
        return;
    }
    line(
        out,
        format_args!("## Chat, instant upstream (scenarios 1 and 2)\n"),
    );
    line(
        out,
        format_args!(
            "| log | at a time | req/s | × direct | p50 ms | p99 ms | max ms | added p50 ms | CPU µs/req | PSS MiB | errors |"
        ),
    );
    line(
        out,
        format_args!("|---|---|---|---|---|---|---|---|---|---|---|"),
    );
    for concurrency in CONCURRENCIES {
        let direct = results.chat.get(&(Subject::Direct, concurrency));
        let of_direct = |figure: fn(&Chat) -> f64| direct.and_then(|rounds| median(rounds, figure));
        for subject in SUBJECTS {
            let Some(rounds) = results.chat.get(&(subject, concurrency)) else {
                continue;
            };
            let through = subject != Subject::Direct;
            let per_second = median(rounds, |r| r.report.per_second);
            let p50 = median(rounds, |r| millis(&r.report.latency).0);
            let ratio = ratio(per_second, of_direct(|r| r.report.per_second));
            let added = difference(p50, of_direct(|r| millis(&r.report.latency).0));
            line(
                out,
                format_args!(
                    "| {} | {concurrency} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    subject.name(),
                    show(per_second, 0),
                    show(ratio, 3),
                    show(p50, 3),
                    show(median(rounds, |r| millis(&r.report.latency).1), 2),
                    show(median(rounds, |r| r.report.latency.max_us / 1_000.0), 1),
                    show(added.filter(|_| through), 3),
                    show(median_of(rounds, |r| r.cost.map(|cost| cost.cpu_us)), 0),
                    show(median_of(rounds, |r| r.cost.map(|cost| cost.pss_mib)), 0),
                    errors(rounds.iter().map(|r| &r.report.errors)),
                ),
            );
        }
        if let Some(rounds) = results.echo.get(&concurrency) {
            let p50 = median(rounds, |r| millis(&r.latency).0);
            line(
                out,
                format_args!(
                    "| two bare hops on Kafka | {concurrency} | {} | {NONE} | {} | {} | {} | {NONE} | {NONE} | {NONE} | {} |",
                    show(median(rounds, |r| r.per_second), 0),
                    show(p50, 3),
                    show(median(rounds, |r| millis(&r.latency).1), 2),
                    show(median(rounds, |r| r.latency.max_us / 1_000.0), 1),
                    errors(rounds.iter().map(|r| &r.errors)),
                ),
            );
            let kafka = results.chat.get(&(Subject::Kafka, concurrency));
            let kafka = kafka.and_then(|rounds| median(rounds, |r| millis(&r.report.latency).0));
            if let Some(ratio) = ratio(kafka, p50) {
                line(
                    out,
                    format_args!(
                        "| Kafka ÷ two bare hops | {concurrency} | {NONE} | {NONE} | × {ratio:.2} | {NONE} | {NONE} | {NONE} | {NONE} | {NONE} | {NONE} |",
                    ),
                );
            }
        }
    }
    out.push('\n');
}

fn streams(out: &mut String, results: &Results) {
    if results.streams.is_empty() {
        return;
    }
    line(
        out,
        format_args!("## Streams, 16 × (64 tokens at 20 ms) (scenario 3)\n"),
    );
    line(
        out,
        format_args!("Added: what Lockgate adds to the same quantile of `direct`.\n"),
    );
    line(
        out,
        format_args!(
            "| log | streams | first token p50 / p99 ms | added p50 / p99 ms | transit p50 / p99 ms | gap p99 ms | longest gap ms | CPU µs/token | PSS MiB | errors |"
        ),
    );
    line(
        out,
        format_args!("|---|---|---|---|---|---|---|---|---|---|"),
    );
    let direct = results.streams.get(&Subject::Direct);
    let of_direct = |figure: fn(&Stream) -> f64| direct.and_then(|rounds| median(rounds, figure));
    for subject in SUBJECTS {
        let Some(rounds) = results.streams.get(&subject) else {
            continue;
        };
        let through = subject != Subject::Direct;
        let first: [fn(&Stream) -> f64; 2] = [
            |r| millis(&r.report.first_token).0,
            |r| millis(&r.report.first_token).1,
        ];
        let [p50, p99] = first.map(|figure| median(rounds, figure));
        let added_p50 = difference(p50, of_direct(first[0])).filter(|_| through);
        let added_p99 = difference(p99, of_direct(first[1])).filter(|_| through);
        line(
            out,
            format_args!(
                "| {} | {} | {} / {} | {} / {} | {} / {} | {} | {} | {} | {} | {} |",
                subject.name(),
                rounds.iter().map(|r| r.report.streams).sum::<u64>(),
                show(p50, 2),
                show(p99, 2),
                show(added_p50, 2),
                show(added_p99, 2),
                show(median(rounds, |r| millis(&r.report.transit).0), 3),
                show(median(rounds, |r| millis(&r.report.transit).1), 2),
                show(median(rounds, |r| millis(&r.report.gap).1), 1),
                show(median(rounds, |r| r.report.gap.max_us / 1_000.0), 1),
                show(median_of(rounds, |r| r.cost.map(|cost| cost.cpu_us)), 0),
                show(median_of(rounds, |r| r.cost.map(|cost| cost.pss_mib)), 0),
                errors(rounds.iter().map(|r| &r.report.errors)),
            ),
        );
    }
    out.push('\n');
}

fn memory(out: &mut String, results: &Results) {
    if results.idle_mib.is_empty() {
        return;
    }
    line(out, format_args!("## Memory (scenario 9)\n"));
    line(
        out,
        format_args!(
            "Proportional set size of the one process with all roles, and of those with one role each.\n"
        ),
    );
    line(
        out,
        format_args!("| log | idle MiB | most under load MiB |"),
    );
    line(out, format_args!("|---|---|---|"));
    for (subject, idle) in &results.idle_mib {
        let of_subject = results.chat.iter().filter(|((of, _), _)| of == subject);
        let costs = of_subject.flat_map(|(_, rounds)| rounds.iter().filter_map(|r| r.cost));
        let most = costs.map(|cost| cost.pss_mib).max_by(f64::total_cmp);
        line(
            out,
            format_args!(
                "| {} | {} | {} |",
                subject.name(),
                show(median(idle, |mib| *mib), 0),
                show(most, 0),
            ),
        );
    }
    for (role, idle) in &results.idle_roles_mib {
        let kafka = Subject::Kafka.name();
        let idle = show(Some(*idle), 0);
        line(out, format_args!("| {kafka}, `{role}` | {idle} | {NONE} |"));
    }
    out.push('\n');
}

fn starts(out: &mut String, results: &Results) {
    if results.starts.is_empty() {
        return;
    }
    line(
        out,
        format_args!("## Start, exec to first good answer (scenario 10)\n"),
    );
    line(out, format_args!("| log | on | median ms | longest ms |"));
    line(out, format_args!("|---|---|---|---|"));
    for (subject, start) in &results.starts {
        let millis = |duration: &std::time::Duration| duration.as_secs_f64() * 1_000.0;
        let longest = start.first_answers.iter().max().map(millis);
        line(
            out,
            format_args!(
                "| {} | {} | {} | {} |",
                subject.name(),
                start.on,
                show(median(&start.first_answers, millis), 0),
                show(longest, 0),
            ),
        );
    }
    out.push('\n');
}

fn log_alone(out: &mut String, results: &Results) {
    let Some(report) = &results.log_alone else {
        return;
    };
    line(
        out,
        format_args!("## Embedded log alone, durable appends of 1 KiB (scenario 11)\n"),
    );
    line(
        out,
        format_args!("| appenders | appends/s | p50 ms | p99 ms | max ms | errors |"),
    );
    line(out, format_args!("|---|---|---|---|---|---|"));
    for width in WIDTHS {
        let Some(appends) = report.appends.get(&width) else {
            continue;
        };
        let (p50, p99) = millis(&appends.latency);
        line(
            out,
            format_args!(
                "| {width} | {:.0} | {p50:.3} | {p99:.2} | {:.1} | {} |",
                appends.per_second,
                appends.latency.max_us / 1_000.0,
                errors([&appends.errors]),
            ),
        );
    }
    let Quantiles { p50_us, p99_us, .. } = report.wake;
    line(
        out,
        format_args!(
            "\nA waiting reader wakes {p50_us:.0} µs (p50), {p99_us:.0} µs (p99) after durability.\n"
        ),
    );
}

fn not_run(out: &mut String, results: &Results) {
    if results.not_run.is_empty() {
        return;
    }
    line(out, format_args!("## Not run, or not to the end\n"));
    line(out, format_args!("| scenario | why |"));
    line(out, format_args!("|---|---|"));
    for (scenario, reason) in &results.not_run {
        let reason = reason.replace('\n', " ").replace('|', "\\|");
        line(out, format_args!("| {scenario} | {reason} |"));
    }
}

pub(crate) fn median<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Option<f64> {
    median_of(rounds, |round| Some(figure(round)))
}

/// The middle figure of those that are there; of two in the middle, the lower.
fn median_of<T>(rounds: &[T], figure: impl Fn(&T) -> Option<f64>) -> Option<f64> {
    let mut figures: Vec<f64> = rounds.iter().filter_map(figure).collect();
    figures.retain(|figure| figure.is_finite());
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied()
}

fn ratio(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    Some(of? / to?)
}

pub(crate) fn difference(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    Some(of? - to?)
}

pub(crate) fn show(figure: Option<f64>, digits: usize) -> String {
    figure.map_or(NONE.into(), |figure| format!("{figure:.digits$}"))
}

pub(crate) fn errors<'a>(rounds: impl IntoIterator<Item = &'a Errors>) -> String {
    let mut all = Errors::new();
    for (name, count) in rounds.into_iter().flatten() {
        *all.entry(name.clone()).or_default() += count;
    }
    if all.is_empty() {
        return "0".into();
    }
    let shown = all.iter().map(|(name, count)| format!("{count} × {name}"));
    shown.collect::<Vec<_>>().join(", ")
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or("?".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let memory = value(&read("/proc/meminfo"), "MemTotal");
    let memory_kib: f64 = memory
        .trim_end_matches("kB")
        .trim()
        .parse()
        .unwrap_or_default();
    let cores = std::fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!(
        "{} × {}, {:.0} GiB of memory, Linux {}",
        cores,
        value(&read("/proc/cpuinfo"), "model name"),
        memory_kib / 1_048_576.0,
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

/// The commit that is checked out, as the table names it.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    let dirty = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    format!("{commit}{}", if dirty { " with local changes" } else { "" })
}

#[cfg(test)]
mod tests {
    use ::tests::load::Report;

    use super::*;

    fn rounds(per_second: &[f64]) -> Vec<Chat> {
        let chat = |&per_second: &f64| Chat {
            report: Report {
                per_second,
                ..Report::default()
            },
            cost: None,
        };
        per_second.iter().map(chat).collect()
    }

    #[test]
    fn figures_are_medians_and_ratios_to_direct() {
        let mut results = Results::default();
        let direct = rounds(&[100.0, 900.0, 200.0]);
        results.chat.insert((Subject::Direct, 10), direct);
        let embedded = rounds(&[50.0, 60.0, 40.0]);
        results.chat.insert((Subject::Embedded, 10), embedded);
        let mut out = String::new();
        chat(&mut out, &results);
        assert!(out.contains("| direct | 10 | 200 | 1.000 |"), "{out}");
        assert!(
            out.contains("| embedded log | 10 | 50 | 0.250 | – |"),
            "{out}"
        );
    }

    #[test]
    fn what_was_not_run_is_told_with_its_reason() {
        let mut results = Results::default();
        results.not_run.push(("11".into(), "a | b\nc".into()));
        let mut out = String::new();
        not_run(&mut out, &results);
        assert!(out.contains("| 11 | a \\| b c |"), "{out}");
    }
}

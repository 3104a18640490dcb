//! The fold under everything that a log with dying, frozen and repeating processes can hold.

use bytes::Bytes;
use proptest::prelude::*;
use schemas::event::{
    Abandoned, Attempt, AttemptFailed, Channel, Chunk, Deferred, Delta, Event, Piece, Run, Sign,
    Started, Terminal, Usage,
};
use schemas::fold::{End, Fold, Step, Text};
use schemas::time::Timestamp;

fn run(number: i32, nonce: i64) -> Run {
    Run { number, nonce }
}

fn at(run: Run) -> Timestamp {
    Timestamp(i64::from(run.number) * 1_000)
}

fn started(run: Run, attempt: i32, continues_from: Option<i64>) -> Event {
    Event::Started(Started {
        run,
        attempt,
        deployment: "local/m".to_owned(),
        config_version: "1".to_owned(),
        at: at(run),
        continues_from,
    })
}

/// Each chunk says which run, attempt and sequence it is.
fn delta(run: Run, attempt: i32, sequence: i64, length: usize) -> Event {
    let chunk = |sequence: i64| Chunk {
        pieces: vec![Piece {
            choice: 0,
            channel: Channel::Text,
            index: 0,
            text: word(run, attempt, sequence),
        }],
        raw: Bytes::new(),
    };
    Event::Delta(Delta {
        run,
        attempt,
        sequence,
        chunks: (sequence..).take(length).map(chunk).collect(),
    })
}

fn word(run: Run, attempt: i32, sequence: i64) -> String {
    format!("{}.{}.{attempt}.{sequence} ", run.number, run.nonce)
}

fn terminal(run: Run, chunks: i64) -> Terminal {
    Terminal {
        run,
        at: at(run),
        status: 200,
        body: None,
        partial: false,
        chunks,
        error: None,
        usage: None,
        cost_nanos: None,
        deployment: None,
        config_version: None,
        attempts: Vec::new(),
    }
}

fn sign(run: Run) -> Sign {
    Sign { run, at: at(run) }
}

fn abandoned(run: Run) -> Event {
    Event::Abandoned(Abandoned {
        run,
        at: at(run),
        usage: Usage::default(),
    })
}

fn deferred(run: Run) -> Event {
    Event::Deferred(Deferred {
        run,
        due: at(run),
        reason: "rest".to_owned(),
        at: at(run),
    })
}

fn attempt_failed(run: Run, number: i32) -> Event {
    Event::AttemptFailed(AttemptFailed {
        run,
        attempt: Attempt {
            number,
            deployment: "local/m".to_owned(),
            key_name: None,
            started_at: at(run),
            first_token_micros: None,
            duration_micros: 10,
            status: None,
            upstream_request_id: None,
            usage: None,
            cost_nanos: None,
            error: None,
        },
    })
}

fn terminal_of(event: &Event) -> Option<&Terminal> {
    match event {
        Event::Completed(terminal)
        | Event::Failed(terminal)
        | Event::Cancelled(terminal)
        | Event::Expired(terminal) => Some(terminal),
        _ => None,
    }
}

/// What a process may do next; what it appends follows from what it appended before.
#[derive(Debug, Clone, Copy)]
enum Act {
    Deltas(usize),
    NextAttempt,
    Continue,
    Fail,
    Alive,
    Defer,
    Release,
    Abandon,
    End(u8),
}

/// One process that works on the request.
#[derive(Debug, Clone)]
struct Process {
    run: Run,
    attempt: i32,
    /// Chunks appended within the run.
    sequence: i64,
    /// What its text is, when it is the current run.
    text: String,
}

impl Process {
    fn act(&mut self, act: Act) -> Event {
        let run = self.run;
        if self.attempt == 0 {
            self.attempt = 1;
            return started(run, 1, None);
        }
        match act {
            Act::Deltas(length) => {
                let event = delta(run, self.attempt, self.sequence, length);
                for _ in 0..length {
                    self.text.push_str(&word(run, self.attempt, self.sequence));
                    self.sequence += 1;
                }
                event
            }
            Act::NextAttempt => {
                self.attempt += 1;
                self.text.clear();
                started(run, self.attempt, None)
            }
            Act::Continue => {
                self.attempt += 1;
                started(run, self.attempt, Some(self.sequence))
            }
            Act::Fail => attempt_failed(run, self.attempt),
            Act::Alive => Event::Alive(sign(run)),
            Act::Defer => deferred(run),
            Act::Release => Event::Released(sign(run)),
            Act::Abandon => abandoned(run),
            Act::End(0) => Event::Completed(terminal(run, self.sequence)),
            Act::End(1) => Event::Failed(terminal(run, self.sequence)),
            Act::End(2) => Event::Cancelled(terminal(run, self.sequence)),
            Act::End(_) => Event::Expired(terminal(run, self.sequence)),
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        10 => (1..4_usize).prop_map(Act::Deltas),
        2 => Just(Act::NextAttempt),
        2 => Just(Act::Continue),
        1 => Just(Act::Fail),
        1 => Just(Act::Alive),
        1 => Just(Act::Defer),
        1 => Just(Act::Release),
        1 => Just(Act::Abandon),
        1 => (0..4_u8).prop_map(Act::End),
    ]
}

/// One entry of a log: an event, and the process that wrote it as it was then. None for the
/// terminal of a request that never started.
type Entry = (Event, Option<Process>);

/// Logs of up to four processes: two claim number 2, the steps of all interleave as they like
/// (late zombies among them), entries are repeated at any later place, and a terminal of a
/// request that never started may stand anywhere.
fn log() -> impl Strategy<Value = Vec<Entry>> {
    let steps = proptest::collection::vec((0..4_usize, act()), 1..40);
    let repeats = proptest::collection::vec((any::<prop::sample::Index>(), 0..12_usize), 0..8);
    let never_started = proptest::option::weighted(0.2, any::<prop::sample::Index>());
    (steps, repeats, never_started).prop_map(|(steps, repeats, never_started)| {
        let mut processes = [run(1, 11), run(2, 21), run(2, 22), run(3, 31)].map(|run| Process {
            run,
            attempt: 0,
            sequence: 0,
            text: String::new(),
        });
        let mut log: Vec<Entry> = Vec::new();
        for (who, act) in steps {
            let event = processes[who].act(act);
            log.push((event, Some(processes[who].clone())));
        }
        for (index, later) in repeats {
            let place = index.index(log.len());
            let entry = log[place].clone();
            log.insert((place + later).min(log.len()), entry);
        }
        if let Some(index) = never_started {
            let place = index.index(log.len());
            log.insert(place, (Event::Expired(terminal(Run::NONE, 0)), None));
        }
        log
    })
}

/// The run that is current after `log`, told without the fold: the highest number that was
/// claimed, by whom it was claimed first, up to the first terminal of the run current then.
fn current(log: &[Entry]) -> (Run, Option<usize>) {
    let mut current = Run::NONE;
    for (place, (event, _)) in log.iter().enumerate() {
        if let Event::Started(started) = event
            && started.run.number > current.number
        {
            current = started.run;
        }
        if terminal_of(event).is_some_and(|terminal| terminal.run == current) {
            return (current, Some(place));
        }
    }
    (current, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn there_is_one_end_of_the_run_that_is_current_then(log in log()) {
        let mut fold = Fold::default();
        let mut ends = Vec::new();
        for (place, (event, _)) in log.iter().enumerate() {
            let before = fold.run;
            if let Step::Ended { end, terminal } = fold.apply(event) {
                prop_assert_eq!(terminal.run, before);
                prop_assert_eq!(fold.end, Some(end));
                ends.push(place);
            }
        }
        let (run, end) = current(&log);
        prop_assert_eq!(fold.run, run);
        prop_assert_eq!(ends, Vec::from_iter(end));
    }

    #[test]
    fn the_text_is_that_of_the_current_run(log in log()) {
        let mut fold = Fold::default();
        let mut text = Text::default();
        for place in 0..log.len() {
            let (event, _) = &log[place];
            let before = (fold.next_sequence > 0, text.clone());
            let step = fold.apply(event);
            if let Step::Started { replaces, .. } = step {
                prop_assert!(!replaces || before.0, "replaces though nothing was delivered");
                prop_assert!(replaces || before.1.is_empty() || fold.next_sequence > 0, "silent splice");
            }
            text.apply(&step);
            let (run, end) = current(&log[..=place]);
            let until = end.unwrap_or(place);
            // Repeats carry the state of the writer when it wrote them first.
            let writer = log[..=until]
                .iter()
                .filter_map(|(_, writer)| writer.as_ref())
                .filter(|writer| writer.run == run)
                .max_by_key(|writer| (writer.attempt, writer.sequence));
            let expected = writer.map_or("", |writer| writer.text.as_str());
            prop_assert_eq!(text.get(0, Channel::Text, 0).unwrap_or(""), expected);
            prop_assert_eq!(fold.next_sequence, writer.map_or(0, |writer| writer.sequence));
        }
    }

    #[test]
    fn a_reader_that_goes_on_from_a_stored_row_equals_one_that_read_all(
        log in log(),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(log.len());
        let mut all = Fold::default();
        for (event, _) in &log[..cut] {
            all.apply(event);
        }
        let mut restored = Fold {
            run: run(all.run.number, all.run.nonce),
            attempt: all.attempt,
            next_sequence: all.next_sequence,
            given_up: all.given_up,
            last_sign: all.last_sign,
            end: all.end,
        };
        for (event, _) in &log[cut..] {
            prop_assert_eq!(all.apply(event), restored.apply(event));
            prop_assert_eq!(&all, &restored);
        }
    }

    #[test]
    fn reading_a_part_again_changes_nothing(
        log in log(),
        from in any::<prop::sample::Index>(),
        length in 1..12_usize,
    ) {
        let until = (from.index(log.len()) + length).min(log.len());
        let from = until.saturating_sub(length);
        let mut fold = Fold::default();
        let mut text = Text::default();
        for (event, _) in &log[..until] {
            text.apply(&fold.apply(event));
        }
        let (once, said) = (fold.clone(), text.clone());
        for (event, _) in &log[from..until] {
            text.apply(&fold.apply(event));
        }
        prop_assert_eq!(fold, once);
        prop_assert_eq!(text, said);
    }

    #[test]
    fn after_the_end_nothing_counts(log in log()) {
        let mut fold = Fold::default();
        for (event, _) in &log {
            let ended = fold.clone();
            let step = fold.apply(event);
            if ended.end.is_some() {
                prop_assert_eq!(step, Step::Ignored);
                prop_assert_eq!(&fold, &ended);
            }
        }
    }
}

fn steps(events: &[Event]) -> (Fold, Vec<String>) {
    let mut fold = Fold::default();
    let said = events
        .iter()
        .map(|event| match fold.apply(event) {
            Step::Started { replaces, .. } => format!("started {replaces}"),
            Step::Delta { from, .. } => format!("delta {from}"),
            Step::Sign => "sign".to_owned(),
            Step::Deferred(_) => "deferred".to_owned(),
            Step::GivenUp => "given up".to_owned(),
            Step::Ended { end, .. } => format!("{end:?}"),
            Step::Ignored => "ignored".to_owned(),
        })
        .collect();
    (fold, said)
}

#[test]
fn a_takeover_replaces_and_the_zombie_only_costs() {
    let (first, second) = (run(1, 1), run(2, 2));
    let (fold, said) = steps(&[
        started(first, 1, None),
        delta(first, 1, 0, 2),
        abandoned(first),
        delta(first, 1, 2, 1),
        started(second, 1, None),
        delta(first, 1, 3, 1),
        Event::Completed(terminal(first, 4)),
        delta(second, 1, 0, 3),
        delta(second, 1, 2, 2),
        Event::Completed(terminal(second, 4)),
        Event::Failed(terminal(second, 4)),
    ]);
    assert_eq!(
        said,
        [
            "started false",
            "delta 0",
            "given up",
            "delta 0",
            "started true",
            "ignored",
            "ignored",
            "delta 0",
            "delta 1",
            "Completed",
            "ignored"
        ]
    );
    assert_eq!(fold.next_sequence, 4);
    assert!(!fold.given_up);
}

#[test]
fn a_run_given_up_that_answers_before_anybody_takes_over_has_answered() {
    let (fold, said) = steps(&[
        started(run(1, 1), 1, None),
        Event::Released(sign(run(1, 1))),
        Event::Completed(terminal(run(1, 1), 0)),
        started(run(2, 2), 1, None),
    ]);
    assert_eq!(said, ["started false", "given up", "Completed", "ignored"]);
    assert_eq!(fold.run, run(1, 1));
}

#[test]
fn an_attempt_continues_only_at_the_end_of_the_text() {
    let first = run(1, 1);
    let (_, said) = steps(&[
        started(first, 1, None),
        delta(first, 1, 0, 2),
        attempt_failed(first, 1),
        started(first, 2, Some(2)),
        delta(first, 2, 2, 1),
        delta(first, 1, 3, 1),
        attempt_failed(first, 1),
        started(first, 3, Some(1)),
        started(run(2, 1), 4, Some(1)),
        delta(run(2, 1), 4, 1, 1),
    ]);
    assert_eq!(
        said,
        [
            "started false",
            "delta 0",
            "sign",
            "started false",
            "delta 0",
            "ignored",
            "ignored",
            "started true",
            "started true",
            "ignored"
        ]
    );
}

#[test]
fn a_request_that_never_started_ends_without_a_run() {
    let (fold, said) = steps(&[
        deferred(Run::NONE),
        started(Run::NONE, 1, None),
        Event::Expired(terminal(Run::NONE, 0)),
        started(run(1, 1), 1, None),
    ]);
    assert_eq!(said, ["deferred", "ignored", "Expired", "ignored"]);
    assert_eq!(fold.end, Some(End::Expired));
    let (fold, said) = steps(&[
        started(run(1, 1), 1, None),
        Event::Cancelled(terminal(Run::NONE, 0)),
    ]);
    assert_eq!(said, ["started false", "ignored"]);
    assert_eq!(fold.end, None);
}

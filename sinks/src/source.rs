//! A topic as the runner reads it, and the news of several.

use futures::FutureExt;
use futures::future::{select_all, try_join_all};
use runtime::log::{Consumer, Log, LogError, Polled, StartAt};

use crate::position::Positions;

/// One topic.
pub(crate) struct Source {
    pub(crate) topic: &'static str,
    pub(crate) consumer: Consumer,
    pub(crate) positions: Positions,
    /// Partitions that wait to be begun.
    pub(crate) waiting: Vec<(i32, Entry)>,
}

/// How a partition is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It was assigned in this epoch.
    Start(u64),
    /// It was read before.
    Seek,
}

impl Entry {
    /// A seek comes after the start of the newest assignment.
    fn epoch(&self) -> u64 {
        match self {
            Self::Start(epoch) => *epoch,
            Self::Seek => 0,
        }
    }
}

impl Source {
    pub(crate) fn new(topic: &'static str, consumer: Consumer) -> Self {
        Self {
            topic,
            consumer,
            positions: Positions::new(topic),
            waiting: Vec::new(),
        }
    }

    /// Partitions that can be begun together.
    pub(crate) fn next_to_begin(&self) -> Option<(Entry, Vec<i32>)> {
        let (_, next) = self.waiting.iter().max_by_key(|(_, entry)| entry.epoch())?;
        let alike = self.waiting.iter().filter(|(_, entry)| entry == next);
        Some((*next, alike.map(|(partition, _)| *partition).collect()))
    }

    /// Begins to read `partitions` where the sink stands, or at the start of the log.
    pub(crate) async fn begin(
        &mut self,
        log: &Log,
        partitions: &[i32],
        entry: Entry,
        stored: &[(i32, i64)],
    ) -> Result<(), LogError> {
        let topic = self.topic;
        let starts = partitions.iter().map(async |&partition| {
            let position = stored.iter().find(|(place, _)| *place == partition);
            let offset = match position {
                Some((_, next)) => *next,
                None => log.watermarks(topic, partition).await?.low,
            };
            Ok::<_, LogError>((partition, offset))
        });
        let starts = try_join_all(starts).await?;
        match entry {
            Entry::Start(epoch) => {
                let places: Vec<(i32, StartAt)> = starts
                    .iter()
                    .map(|(partition, offset)| (*partition, StartAt::Offset(*offset)))
                    .collect();
                self.consumer.start(epoch, &places).await?;
            }
            Entry::Seek => {
                for (partition, offset) in &starts {
                    self.consumer.seek(*partition, *offset).await?;
                }
            }
        }
        for (partition, _) in starts {
            let position = stored.iter().find(|(place, _)| *place == partition);
            self.positions
                .begin(partition, position.map(|(_, next)| *next));
            self.waiting.retain(|(place, _)| *place != partition);
        }
        Ok(())
    }
}

/// The next news of any source, asking `first` first; cancel safe, since receiving is.
pub(crate) async fn recv(
    sources: &mut [Source],
    first: usize,
) -> (usize, Result<Polled, LogError>) {
    let count = sources.len();
    let mut order: Vec<_> = sources
        .iter_mut()
        .enumerate()
        .map(|(index, source)| async move { (index, source.consumer.recv().await) }.boxed())
        .collect();
    order.rotate_left(first % count.max(1));
    let (news, _, _) = select_all(order).await;
    news
}

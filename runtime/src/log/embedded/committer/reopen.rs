//! After a failed write or sync: cut, write again what was shown, try, go on.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Committer, Item};
use crate::log::embedded::segment;
use crate::log::{AppendError, Health};

/// First and longest pause between attempts to open a failed log again.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Written on trial before a failed log takes records again.
const TRIAL_BYTES: usize = 1024 * 1024;
const TRIAL_NAME: &str = "trial";

impl Committer {
    /// Fails what nobody has seen and keeps the log closed for writing until it was opened again.
    pub(super) fn fail(&mut self, error: &io::Error, items: Vec<Item>, began: Instant) {
        let reason: Arc<str> = format!("writing failed: {error}").into();
        tracing::error!(%error, "the log failed and takes no records until it was opened again");
        self.shared.queue.refuse(&reason);
        self.shared.health.send_replace(Health::Down {
            reason: reason.clone(),
        });
        let mut restored = self.restore();
        self.rewind();
        for item in items {
            match (item, &restored) {
                (Item::Record { reply, .. }, Ok(())) => {
                    drop(reply.send(Err(AppendError::Unavailable {
                        reason: reason.clone(),
                    })));
                }
                (Item::Record { reply, .. }, Err(_)) => {
                    drop(reply.send(Err(AppendError::Unknown {
                        waited: began.elapsed(),
                    })));
                }
                (Item::Commit { reply, .. }, _) => drop(reply.send(Err(reason.clone()))),
            }
        }
        let mut pause = REOPEN_PAUSE.0;
        loop {
            match restored.and_then(|()| self.try_writing()) {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "the log could not be opened again"),
            }
            if self.shared.queue.closed_before(Instant::now() + pause) {
                return;
            }
            pause = (pause * 2).min(REOPEN_PAUSE.1);
            restored = self.restore();
        }
        tracing::info!("the log takes records again");
        self.shared.queue.accept();
        self.shared.health.send_replace(Health::Up);
    }

    /// Brings the file back to what was shown, durably.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let name = segment::file_name(active.segment.number);
        let file = self.shared.storage.open(&name)?;
        file.set_len(active.end)?;
        file.write_at(&active.unsynced, active.synced)?;
        if let Err(error) = file.sync() {
            // It may have dropped them from the cache: they must survive a `kill -9` before the next attempt.
            file.write_at(&active.unsynced, active.synced)?;
            return Err(error);
        }
        active.file = file;
        active.synced = active.end;
        active.unsynced.clear();
        Ok(())
    }

    fn try_writing(&self) -> io::Result<()> {
        let storage = &self.shared.storage;
        let file = storage.create(TRIAL_NAME)?;
        let written = file
            .write_at(&vec![0; TRIAL_BYTES], 0)
            .and_then(|()| file.sync());
        storage.remove(TRIAL_NAME)?;
        written
    }
}

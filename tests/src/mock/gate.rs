//! What holds calls back until they are released.

use std::collections::HashSet;

use tokio::sync::watch;

use super::record::Record;

/// Holds back calls until they are released.
#[derive(Debug)]
pub(crate) struct Gate(watch::Sender<Released>);

#[derive(Debug, Default)]
struct Released {
    all: bool,
    ids: HashSet<String>,
}

impl Gate {
    /// A closed one.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Released::default()))
    }

    /// Lets every call pass.
    pub(crate) fn open(&self) {
        self.0.send_modify(|released| released.all = true);
    }

    /// Lets the calls of one id pass.
    pub(crate) fn open_for(&self, id: &str) {
        self.0.send_modify(|released| {
            released.ids.insert(id.into());
        });
    }

    /// Holds all calls back again.
    pub(crate) fn close(&self) {
        self.0
            .send_modify(|released| *released = Released::default());
    }

    /// Waits until the gate is open for `id`.
    pub(super) async fn passed(&self, id: &str) {
        let mut receiver = self.0.subscribe();
        let passed = receiver.wait_for(|released| released.all || released.ids.contains(id));
        if passed.await.is_err() {
            // The sender is a field of `self`, so it is there; nothing to wait for otherwise.
        }
    }
}

/// Counts a call as held for as long as it lives.
pub(super) struct Held<'a>(&'a Record);

impl<'a> Held<'a> {
    pub(super) fn new(record: &'a Record) -> Self {
        record.held(true);
        Self(record)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held(false);
    }
}

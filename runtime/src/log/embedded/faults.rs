//! A folder in memory that loses, tears and refuses on demand. Clones are the same folder.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::storage::{Storage, StorageFile};

/// The folder as one process sees it; [`Simulated::kill`] and [`Simulated::power_cut`] end that process.
#[derive(Debug, Clone)]
pub(super) struct Simulated {
    disk: Arc<Disk>,
    life: u64,
}

#[derive(Debug, Default)]
struct Disk {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Processes that ended; a handle of an earlier one does nothing any more.
    life: u64,
    names: BTreeMap<String, usize>,
    names_synced: BTreeMap<String, usize>,
    files: Vec<Content>,
    faults: Faults,
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// Bytes that can still be written before `ENOSPC`; none: no bound. A write that does not fit leaves a part.
    pub(super) space: Option<usize>,
    /// So many next syncs fail with `EIO` and drop what was not synced from the cache, as Linux may.
    pub(super) syncs_fail: u32,
    /// How long a sync takes; the end of the process ends it without effect.
    pub(super) sync_takes: std::time::Duration,
    /// Files cannot be cut.
    pub(super) cuts_fail: bool,
    /// Writes wait until this is taken back.
    pub(super) stalled: bool,
}

impl Simulated {
    pub(super) fn new() -> Self {
        Self {
            disk: Arc::default(),
            life: 0,
        }
    }

    /// Changes what goes wrong.
    pub(super) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.disk.state.lock().faults);
        self.disk.released.notify_all();
    }

    /// `kill -9`: what was written stays.
    pub(super) fn kill(&mut self) {
        let mut state = self.disk.state.lock();
        state.life += 1;
        self.life = state.life;
        state.faults = Faults::default();
        self.disk.released.notify_all();
    }

    /// A power cut: of what was not synced, blocks chosen by `seed` stay, in no order.
    pub(super) fn power_cut(&mut self, seed: u64) {
        self.kill();
        let mut state = self.disk.state.lock();
        state.names = state.names_synced.clone();
        let mut random = seed;
        for file in &mut state.files {
            let len = file
                .now
                .len()
                .min(file.synced.len() + next(&mut random) % 3000);
            let mut after = vec![0; len.max(file.synced.len())];
            after[..file.synced.len()].copy_from_slice(&file.synced);
            if seed != 0 {
                for start in (0..len).step_by(256) {
                    let end = len.min(start + 256);
                    if next(&mut random).is_multiple_of(2) {
                        after[start..end].copy_from_slice(&file.now[start..end]);
                    }
                }
            }
            after.truncate(if seed == 0 {
                file.synced.len()
            } else {
                usize::MAX
            });
            *file = Content {
                now: after.clone(),
                synced: after,
            };
        }
    }

    /// Flips one bit of a file, synced.
    pub(super) fn damage(&self, name: &str, at: usize) {
        let mut state = self.disk.state.lock();
        let id = state.names[name];
        state.files[id].now[at] ^= 1;
        state.files[id].synced[at] ^= 1;
    }

    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.disk.state.lock();
        if state.life != self.life {
            return Err(io::Error::other("the process was killed"));
        }
        Ok(state)
    }

    fn file(&self, id: usize) -> Arc<dyn StorageFile> {
        Arc::new(SimulatedFile {
            folder: self.clone(),
            id,
        })
    }
}

/// Xorshift: enough to vary, the same for the same seed.
fn next(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 11) as usize
}

impl Storage for Simulated {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let id = self.state()?.names.get(name).copied();
        Ok(self.file(id.ok_or(io::ErrorKind::NotFound)?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state()?;
        let id = state.files.len();
        state.files.push(Content::default());
        state.names.insert(name.to_owned(), id);
        Ok(self.file(id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state()?;
        let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.state()?.names.remove(name);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.names_synced = state.names.clone();
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    folder: Simulated,
    id: usize,
}

impl StorageFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.folder.state()?.files[self.id].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let state = self.folder.state()?;
        let at = at as usize;
        let bytes = state.files[self.id].now.get(at..at + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.folder.state()?;
        while state.faults.stalled && state.life == self.folder.life {
            self.folder.disk.released.wait(&mut state);
        }
        if state.life != self.folder.life {
            return Err(io::Error::other("the process was killed"));
        }
        // What is written over has its place already.
        let len = state.files[self.id].now.len();
        let grows = (at as usize + bytes.len()).saturating_sub(len);
        let missing = state
            .faults
            .space
            .map_or(0, |space| grows.saturating_sub(space));
        let fits = bytes.len() - missing;
        if let Some(space) = &mut state.faults.space {
            *space = space.saturating_sub(grows);
        }
        let (at, end) = (at as usize, at as usize + fits);
        let now = &mut state.files[self.id].now;
        now.resize(now.len().max(end), 0);
        now[at..end].copy_from_slice(&bytes[..fits]);
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.folder.state()?;
        if state.faults.cuts_fail {
            return Err(io::Error::other("injected: the file cannot be cut"));
        }
        state.files[self.id].now.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.folder.state()?;
        let until = std::time::Instant::now() + state.faults.sync_takes;
        while state.life == self.folder.life
            && !self
                .folder
                .disk
                .released
                .wait_until(&mut state, until)
                .timed_out()
        {}
        if state.life != self.folder.life {
            return Err(io::Error::other("the process was killed"));
        }
        let fails = state.faults.syncs_fail > 0;
        state.faults.syncs_fail = state.faults.syncs_fail.saturating_sub(1);
        let file = &mut state.files[self.id];
        if fails {
            let len = file.now.len();
            file.now = file.synced.clone();
            file.now.resize(len, 0);
            return Err(io::Error::other("injected: EIO on sync"));
        }
        file.synced = file.now.clone();
        Ok(())
    }
}

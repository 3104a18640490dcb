//! The files below the log: the seam where tests inject faults.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens segment files. The real one is [`Disk`]; tests put one in between that drops, tears and refuses.
pub(in crate::log) trait Storage: Send + Sync + std::fmt::Debug {
    /// Opens a file for reading and writing, made when missing; its name is durable on return.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>>;
}

/// One segment file.
pub(in crate::log) trait SegmentFile: Send + Sync + std::fmt::Debug {
    /// Writes all bytes at `position`; they survive the process, not a power cut.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Makes everything written survive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes at `position`; fewer only at the end.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Cuts the file off.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// The local disk.
#[derive(Debug)]
pub(in crate::log) struct Disk;

impl Storage for Disk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        let new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if new {
            sync_folder(path)?;
        }
        Ok(Arc::new(DiskFile(file)))
    }
}

/// Makes the name of a new or renamed file durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder: PathBuf = path
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    File::open(folder)?.sync_all()
}

#[derive(Debug)]
struct DiskFile(File);

impl SegmentFile for DiskFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .0
                .read_at(&mut buffer[filled..], position + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

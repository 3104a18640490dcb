//! A disk of one's own that can be filled.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

const FILLER: &str = "filler";

/// A small file system in memory; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// A disk of `mebibytes`; none, with a printed reason, when this user may not mount.
    ///
    /// # Errors
    /// When root may not mount either.
    #[expect(clippy::print_stderr, reason = "for the reader of the test's output")]
    pub fn mount(mebibytes: u32) -> anyhow::Result<Option<Self>> {
        if std::fs::metadata("/proc/self")?.uid() != 0 {
            eprintln!("skipped: only root may mount the disk that is filled");
            return Ok(None);
        }
        let folder = tempfile::Builder::new()
            .prefix("lockgate-disk-")
            .tempdir()?;
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "lockgate-test"])
            .arg(folder.path())
            .output()
            .context("run mount")?;
        ensure!(
            mounted.status.success(),
            "mount: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Ok(Some(Self { folder }))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all space that is left.
    ///
    /// # Errors
    /// When writing fails for another reason than a full disk.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.filler())?;
        let mut piece: &[u8] = &[0; 64 * 1024];
        loop {
            match file.write(piece) {
                Ok(_) => {}
                // Smaller and smaller: the last page goes too.
                Err(error) if error.kind() == ErrorKind::StorageFull && piece.len() > 1 => {
                    piece = &piece[..piece.len() / 2];
                }
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Errors
    /// When it took nothing.
    pub fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.path().join(FILLER)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that still has a file open must not keep it mounted for ever.
        Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status()
            .ok();
    }
}

//! The log on local disk, for one process.

use std::path::PathBuf;

/// Where and how the embedded log keeps its records.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its folder, made when missing, locked against a second process.
    pub folder: PathBuf,
    /// Most bytes kept on disk; appends are refused past it when nothing may be deleted.
    pub bytes_max: u64,
}

/// Handle on an embedded log.
#[derive(Debug, Clone)]
pub(super) struct Embedded;

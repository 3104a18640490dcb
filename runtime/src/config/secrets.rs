//! Where the master keys are, and how they are read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{Fault, Secrets};
use crate::secrets::MasterKeys;

/// Holds master keys when no file does.
pub(super) const VARIABLE: &str = "LOCKGATE_MASTER_KEY";
const FILE: &str = "secrets.master_key_file";
/// What to do without a master key.
pub(super) const REMEDY: &str = "set it, or name a file by secrets.master_key_file; lockgate secrets generate-master-key makes a key";
/// Far more keys than anybody has.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// What a file must not allow: anything to group and others.
const OPEN_TO_OTHERS: u32 = 0o077;

pub(super) fn master_keys(settings: &Secrets) -> Result<Option<MasterKeys>, Fault> {
    let (key, parsed) = match (&settings.master_key_file, &settings.master_key) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(fault(
                FILE,
                format!("{VARIABLE} is set too, and master keys come from one place"),
                "keep the variable or the file",
            ));
        }
        (None, Some(text)) => (VARIABLE, MasterKeys::parse(text.expose_secret())),
        (Some(path), None) => {
            let text = read(path).map_err(|error| {
                fault(
                    FILE,
                    format!("{} cannot be used ({error})", path.display()),
                    format!(
                        "name a file that its user alone can read: chmod 600 {}",
                        path.display()
                    ),
                )
            })?;
            (FILE, MasterKeys::parse(&text))
        }
    };
    parsed.map(Some).map_err(|bad| {
        fault(
            key,
            bad.to_string(),
            "write keys that lockgate secrets generate-master-key made, separated by commas",
        )
    })
}

/// The mode is that of the opened file, not of one that was there before.
fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if meta.mode() & OPEN_TO_OTHERS != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(io::Error::other(format!(
            "others may use it, its mode is {mode:o}"
        )));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("it is too large for a file of keys"));
    }
    // Of its full size at once: what grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn fault(key: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
    Fault {
        key: key.to_owned(),
        problem: problem.into(),
        remedy: remedy.into(),
    }
}

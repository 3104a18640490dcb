//! Which configuration takes effect, and the commands that show it.

use std::io::Write;
use std::path::{Path, PathBuf};

use runtime::config::{self, Config, Faults, Role};

use crate::demo;

/// Read when no file is named.
const DEFAULT_FILE: &str = "lockgate.yaml";

/// Where the configuration comes from.
#[derive(Debug)]
pub(crate) struct Source {
    /// None: only defaults and variables.
    file: Option<PathBuf>,
}

impl Source {
    /// The file that was named, or the one in the working folder if it is there.
    pub(crate) fn find(named: Option<PathBuf>) -> Self {
        let here = || {
            Path::new(DEFAULT_FILE)
                .exists()
                .then(|| DEFAULT_FILE.into())
        };
        Self {
            file: named.or_else(here),
        }
    }

    /// Reads and checks it for `role`; what is left empty serves the scripted model.
    pub(crate) fn load(&self, role: Option<Role>) -> Result<Config, Faults> {
        let mut config = config::load(self.file.as_deref(), role, &[])?;
        if config.providers.is_empty() && config.models.is_empty() {
            demo::add_model(&mut config);
        }
        Ok(config)
    }

    /// As [`Source::load`], for a process of `role`; with the scripted model when it `is_demo`.
    pub(crate) fn load_for(&self, role: Role, is_demo: bool) -> Result<Config, Faults> {
        let mut config = self.load(Some(role))?;
        if is_demo {
            demo::add_model(&mut config);
        }
        Ok(config)
    }

    /// The text of the file; none when there is no file, or it cannot be read now.
    pub(crate) fn text(&self) -> Option<String> {
        std::fs::read_to_string(self.file.as_deref()?).ok()
    }

    fn name(&self) -> String {
        match &self.file {
            Some(file) => file.display().to_string(),
            None => format!("no file ({DEFAULT_FILE} is not here), the defaults"),
        }
    }
}

/// `lockgate check-config`.
pub(crate) fn check(source: &Source, role: Option<Role>) -> anyhow::Result<()> {
    source.load(role)?;
    writeln!(std::io::stdout(), "{}: no faults", source.name())?;
    Ok(())
}

/// `lockgate print-config`.
pub(crate) fn print(source: &Source) -> anyhow::Result<()> {
    let config = source.load(None)?;
    std::io::stdout().write_all(config.print().as_bytes())?;
    Ok(())
}

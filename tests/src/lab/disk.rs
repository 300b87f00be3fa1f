//! File systems that run out of space or of inodes.

use anyhow::Result;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// What a file system lacks.
#[derive(Debug, Clone, Copy)]
pub enum Lack {
    /// Space for data.
    Bytes,
    /// Inodes for new files.
    Inodes,
}

impl Lack {
    /// Takes all that is left.
    ///
    /// # Errors
    /// If writing fails for another reason than a full file system.
    pub fn fill(self, home: &Path) -> Result<()> {
        for number in 0.. {
            let path = home.join(format!("ballast-{number}"));
            let filled = match self {
                Self::Bytes => File::options().append(true).create(true).open(path).and_then(|mut file| {
                    loop {
                        file.write_all(&[0; 4096])?;
                    }
                }),
                Self::Inodes => File::create(path).map(drop),
            };
            match filled {
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    /// Frees what [`Lack::fill`] took.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn empty(home: &Path) -> Result<()> {
        for file in home.read_dir()?.flatten() {
            if file.file_name().to_string_lossy().starts_with("ballast-") {
                std::fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }
}

//! Libraries that are preloaded into the processes of a lab, to cause what cannot be caused from outside.
//!
//! Owns compiling `tests/preload/NAME.c` with the system's C compiler, once per content. Invariant: a library that is
//! found is whole and made from the source as it is now, whoever else compiles it at the same moment.
//! Never: is loaded into the test itself.

use anyhow::{Context, Result, ensure};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library made from `tests/preload/NAME.c`, for the variable `LD_PRELOAD`.
///
/// # Errors
/// When there is no C compiler, or the source does not compile.
pub fn library(name: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("preload").join(format!("{name}.c"));
    let text = std::fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    // Beside the programs of this workspace: private to the build, and removed with it.
    let dir = std::env::current_exe()?.parent().context("this program is nowhere")?.join("preload");
    std::fs::create_dir_all(&dir)?;
    let library = dir.join(format!("{name}-{:016x}.so", hasher.finish()));
    if library.is_file() {
        return Ok(library);
    }
    let new = dir.join(format!("{name}-{}.new", uuid::Uuid::new_v4()));
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&new).arg(&source).arg("-ldl").output();
    let made = made.context("no C compiler: install gcc (`cc` must be on the PATH)")?;
    ensure!(made.status.success(), "{} does not compile: {}", source.display(), String::from_utf8_lossy(&made.stderr));
    std::fs::rename(&new, &library)?;
    Ok(library)
}

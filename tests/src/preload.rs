//! Libraries that are preloaded into the processes of a lab, to cause what cannot be caused from outside.
//!
//! `tests/preload/NAME.c` is compiled with the C compiler of the system, once for each content. A library that is found
//! is complete and made from the current source, even if several tests compile it at the same time. The test itself
//! loads none.

use anyhow::{Context, Result, ensure};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library made from `tests/preload/NAME.c`, for the variable `LD_PRELOAD`.
///
/// # Errors
/// If there is no C compiler, or the source does not compile.
pub fn library(name: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("preload").join(format!("{name}.c"));
    let text = std::fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    // Beside the programs of this workspace, so that it belongs to the build and is removed with it.
    let dir = std::env::current_exe()?.parent().context("this program has no path")?.join("preload");
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

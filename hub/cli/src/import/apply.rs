//! Doing what was planned, and undoing it.
//!
//! Owns the order: first the list of declared servers, then each file with its backup. Invariant: at every moment each
//! server is in the list, or in its agent's file, or in both; whatever is interrupted can be done again. A file that
//! cannot be changed costs only itself. Never: removes a backup, or restores one over what somebody wrote since.

use super::edit::Change;
use super::entry::{Around, Meaning, read};
use super::file::{self, Content, print};
use super::plan::{FilePlan, Plan};
use super::{agents, vars};
use jiff::Timestamp;
use linchpin_shared::declared::{Declared, Import};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A file that was changed.
#[derive(Debug, Serialize)]
pub(super) struct Changed {
    pub(super) file: PathBuf,
    pub(super) backup: PathBuf,
}

/// What came of it: what was changed, and what could not be.
pub(super) type Outcome = (Vec<Changed>, Vec<Problem>);

/// Does it.
///
/// # Errors
/// When the list cannot be written. Then nothing was changed.
pub(super) fn apply(home: &Home, plan: &Plan, now: Timestamp) -> Result<Outcome, Problem> {
    let due: Vec<(&FilePlan, Import)> = plan.files.iter().filter_map(|file| Some((file, import(file, now)?))).collect();
    Declared::change(home, |list| {
        let wanted: BTreeSet<&String> = due.iter().flat_map(|(_, import)| &import.servers).collect();
        for (name, server) in plan.servers.iter().filter(|(name, _)| wanted.contains(name)) {
            list.servers.insert(name.clone(), server.clone());
        }
        list.imports.extend(due.iter().map(|(_, import)| import.clone()));
        Ok(())
    })?;
    let (mut changed, mut problems) = (Vec::new(), Vec::new());
    for (file, import) in due {
        match replace(file, &import) {
            Ok(()) => changed.push(Changed { file: import.file, backup: import.backup }),
            Err(problem) => {
                problems.push(problem);
                Declared::change(home, |list| {
                    forget(list, &import);
                    Ok(())
                })?;
            }
        }
    }
    Ok((changed, problems))
}

/// What will be noted of a file that is to be changed.
fn import(file: &FilePlan, now: Timestamp) -> Option<Import> {
    let after = file.after.as_ref().ok().filter(|after| **after != file.content.text)?;
    Some(Import {
        file: file.content.file.clone(),
        backup: file.content.backup(now),
        paths: file.changes.iter().map(|change| change.path.clone()).collect(),
        after: print(after),
        servers: file.servers(),
        at: now,
    })
}

fn replace(file: &FilePlan, import: &Import) -> Result<(), Problem> {
    let after = file.after.as_ref().map_err(Clone::clone)?;
    file.content.back_up(&import.backup)?;
    file.content.replace(after)
}

/// Takes an import and what came by it alone from the list.
fn forget(list: &mut Declared, import: &Import) {
    list.imports.retain(|known| known != import);
    let others: BTreeSet<String> = list.imports.iter().flat_map(|other| other.servers.clone()).collect();
    list.servers.retain(|name, _| !import.servers.contains(name) || others.contains(name));
}

/// Gives files back what was taken from them, the last import first. With files, only theirs.
///
/// # Errors
/// When the list cannot be read or written.
pub(super) fn undo(home: &Home, files: &[PathBuf], vars: &vars::Vars) -> Result<Outcome, Problem> {
    let list = Declared::read(home)?;
    let (mut changed, mut problems) = (Vec::new(), Vec::new());
    for import in list.imports.iter().rev().filter(|import| files.is_empty() || files.contains(&import.file)) {
        match give_back(import, vars) {
            Ok(()) => {
                Declared::change(home, |list| {
                    forget(list, import);
                    Ok(())
                })?;
                changed.push(Changed { file: import.file.clone(), backup: import.backup.clone() });
            }
            Err(problem) => problems.push(problem),
        }
    }
    Ok((changed, problems))
}

fn give_back(import: &Import, vars: &vars::Vars) -> Result<(), Problem> {
    let missing = |path: &Path| {
        Problem::new(Code::NotFound, format!("{} is not there any more", path.display()))
            .next(format!("put the servers back by hand, from {}", import.backup.display()))
    };
    let before = Content::read(&import.backup)?.ok_or_else(|| missing(&import.backup))?;
    let now = Content::read(&import.file)?.ok_or_else(|| missing(&import.file))?;
    if now.text == before.text {
        return Ok(());
    }
    if print(&now.text) == import.after {
        return now.replace(&before.text);
    }
    // Somebody wrote it since: only what was taken away is put back.
    let (old, new) = (file::value(&before.text, &import.file)?, now.value()?);
    let changes: Vec<Change> = import.paths.iter().map(|path| inverse(path, &old, &new, vars)).collect();
    now.replace(&file::changed(&now.text, &import.file, &changes)?)
}

/// What leads back to the old members of an object: those that are missing, and Linchpin's entry gone.
fn inverse(path: &[String], old: &Value, new: &Value, vars: &vars::Vars) -> Change {
    let members = |root: &Value| -> Map<String, Value> {
        let found = path.iter().try_fold(root, |value, key| value.get(key)).and_then(Value::as_object);
        found.cloned().unwrap_or_default()
    };
    let (old, new) = (members(old), members(new));
    let site = agents::Site { path: path.to_vec(), project: None };
    let around = Around { agent: agents::Agent::ClaudeCode, site: &site, vars, disabled: &[] };
    let is_own = |entry: &Value| read("", entry, &around) == Meaning::Linchpin;
    let keeps_own = old.values().any(is_own);
    Change {
        path: path.to_vec(),
        remove: new.iter().filter(|(_, entry)| !keeps_own && is_own(entry)).map(|(name, _)| name.clone()).collect(),
        insert: old
            .into_iter()
            .filter(|(name, entry)| !new.contains_key(name) || (!keeps_own && is_own(&new[name]) && !is_own(entry)))
            .collect(),
    }
}

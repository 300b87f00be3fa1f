//! Applies a plan, and undoes it.
//!
//! First the list of declared servers is written, then each file with its backup. At every moment each server is in the
//! list, or in its agent's file, or in both, and whatever is interrupted can be repeated. A file that cannot be changed
//! does not affect the others. Backups are never removed, and never restored over later changes.

use super::edit::ObjectEdit;
use super::entry::{EntryContext, EntryKind, read};
use super::file::{self, FileContent, fingerprint};
use super::plan::{FilePlan, ImportPlan};
use super::{agents, vars};
use jiff::Timestamp;
use linchpin_hub::declared::{ImportRecord, ServerList};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A file that was changed.
#[derive(Debug, Serialize)]
pub(super) struct ChangedFile {
    pub(super) file: PathBuf,
    pub(super) backup: PathBuf,
}

/// The files that were changed, and the problems with the others.
pub(super) type Outcome = (Vec<ChangedFile>, Vec<Problem>);

/// Applies the plan.
///
/// # Errors
/// If the list cannot be written. Nothing is changed then.
pub(super) fn apply(home: &Home, plan: &ImportPlan, now: Timestamp) -> Result<Outcome, Problem> {
    let due: Vec<(&FilePlan, ImportRecord)> =
        plan.files.iter().filter_map(|file| Some((file, import(file, now)?))).collect();
    ServerList::change(home, |list| {
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
            Ok(()) => changed.push(ChangedFile { file: import.file, backup: import.backup }),
            Err(problem) => {
                problems.push(problem);
                ServerList::change(home, |list| {
                    forget(list, &import);
                    Ok(())
                })?;
            }
        }
    }
    Ok((changed, problems))
}

/// Returns what is recorded about a file that will be changed.
fn import(file: &FilePlan, now: Timestamp) -> Option<ImportRecord> {
    let after = file.after.as_ref().ok().filter(|after| **after != file.content.text)?;
    Some(ImportRecord {
        file: file.content.file.clone(),
        backup: file.content.backup(now),
        paths: file.changes.iter().map(|change| change.path.clone()).collect(),
        after: fingerprint(after),
        servers: file.servers(),
        at: now,
    })
}

fn replace(file: &FilePlan, import: &ImportRecord) -> Result<(), Problem> {
    let after = file.after.as_ref().map_err(Clone::clone)?;
    file.content.back_up(&import.backup)?;
    file.content.replace(after)
}

/// Removes an import from the list, and the servers that only this import declared.
fn forget(list: &mut ServerList, import: &ImportRecord) {
    list.imports.retain(|known| known != import);
    let others: BTreeSet<String> = list.imports.iter().flat_map(|other| other.servers.clone()).collect();
    list.servers.retain(|name, _| !import.servers.contains(name) || others.contains(name));
}

/// Restores what was removed from files, starting with the last import. If files are given, only those.
///
/// # Errors
/// If the list cannot be read or written.
pub(super) fn undo(home: &Home, files: &[PathBuf], vars: &vars::Variables) -> Result<Outcome, Problem> {
    let list = ServerList::read(home)?;
    let (mut changed, mut problems) = (Vec::new(), Vec::new());
    for import in list.imports.iter().rev().filter(|import| files.is_empty() || files.contains(&import.file)) {
        match restore(import, vars) {
            Ok(()) => {
                ServerList::change(home, |list| {
                    forget(list, import);
                    Ok(())
                })?;
                changed.push(ChangedFile { file: import.file.clone(), backup: import.backup.clone() });
            }
            Err(problem) => problems.push(problem),
        }
    }
    Ok((changed, problems))
}

fn restore(import: &ImportRecord, vars: &vars::Variables) -> Result<(), Problem> {
    let missing = |path: &Path| {
        Problem::new(Code::NotFound, format!("{} does not exist any more", path.display()))
            .next(format!("restore the servers by hand from {}", import.backup.display()))
    };
    let before = FileContent::read(&import.backup)?.ok_or_else(|| missing(&import.backup))?;
    let now = FileContent::read(&import.file)?.ok_or_else(|| missing(&import.file))?;
    if now.text == before.text {
        return Ok(());
    }
    if fingerprint(&now.text) == import.after {
        return now.replace(&before.text);
    }
    // The file was changed since, so only what was removed is restored.
    let (old, new) = (file::value(&before.text, &import.file)?, now.value()?);
    let changes: Vec<ObjectEdit> = import.paths.iter().map(|path| inverse(path, &old, &new, vars)).collect();
    now.replace(&file::changed(&now.text, &import.file, &changes)?)
}

/// Returns the change that leads back to the old members of an object: it inserts those that are missing and removes
/// the entry for Linchpin.
fn inverse(path: &[String], old: &Value, new: &Value, vars: &vars::Variables) -> ObjectEdit {
    let members = |root: &Value| -> Map<String, Value> {
        let found = path.iter().try_fold(root, |value, key| value.get(key)).and_then(Value::as_object);
        found.cloned().unwrap_or_default()
    };
    let (old, new) = (members(old), members(new));
    let table = agents::ServerTable { path: path.to_vec(), project: None };
    let context = EntryContext { agent: agents::Agent::ClaudeCode, table: &table, vars, disabled: &[] };
    let is_own = |entry: &Value| read("", entry, &context) == EntryKind::Linchpin;
    let keeps_own = old.values().any(is_own);
    ObjectEdit {
        path: path.to_vec(),
        remove: new.iter().filter(|(_, entry)| !keeps_own && is_own(entry)).map(|(name, _)| name.clone()).collect(),
        insert: old
            .into_iter()
            .filter(|(name, entry)| !new.contains_key(name) || (!keeps_own && is_own(&new[name]) && !is_own(entry)))
            .collect(),
    }
}

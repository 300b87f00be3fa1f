//! `linchpin import` turns the servers of coding agents into servers that the hub starts when they are first used.
//!
//! It finds the files ([`agents`]), reads their entries ([`entry`], [`vars`]), makes a plan ([`mod@plan`], [`edit`])
//! and shows it ([`show`]); with `--apply` it carries the plan out ([`mod@apply`], [`mod@file`]). Without `--apply`,
//! `--undo` or `--remove` nothing is written, and a second run finds nothing to do. No server or hub is started,
//! `config.toml` is not written, and no value of a variable or a header is shown.

mod agents;
mod apply;
mod edit;
mod edit_toml;
mod entry;
mod file;
mod jsonc;
mod plan;
mod show;
#[cfg(test)]
mod tests;
mod vars;

use super::Context;
use super::reach::executable;
use agents::{AgentFile, FileLocator};
use jiff::Timestamp;
use linchpin_hub::declared::ServerList;
use linchpin_shared::home::HOME_VAR;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::registry::{Owner, Registry};
use plan::{ImportPlan, ImportPlanner, LinchpinProgram};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vars::Variables;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Apply the changes: declare the servers, and replace them by one entry, with a backup beside each file
    #[arg(long)]
    apply: bool,
    /// Restore what was removed from the files
    #[arg(long, conflicts_with = "apply")]
    undo: bool,
    /// Remove a server from the list of declared servers
    #[arg(long, value_name = "NAME", conflicts_with_all = ["apply", "undo", "files"])]
    remove: Option<String>,
    /// Only these files; the default is all files of known agents, of the user and of the current project
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn main(context: &Context, args: &Args) -> Result<Exit, Problem> {
    if let Some(name) = &args.remove {
        return remove(context, name);
    }
    let locator = locator()?;
    if args.undo {
        return undo(context, args, &locator);
    }
    let plan = plan(context, args, &locator)?;
    if !args.apply {
        context.output.value(&show::json(&plan), |_| show::plan(&plan));
        return Ok(Exit::Ok);
    }
    let (changed, problems) = apply::apply(&context.home, &plan, Timestamp::now())?;
    let unreadable = plan.files.iter().filter_map(|file| file.after.as_ref().err());
    let problems: Vec<Problem> = unreadable.cloned().chain(problems).collect();
    context.output.value(&show::done(&changed, &problems), |_| show::applied(&plan, &changed));
    Ok(report(context, &problems))
}

/// Prints the problems, and returns the exit code.
fn report(context: &Context, problems: &[Problem]) -> Exit {
    if !context.output.is_json() {
        problems.iter().for_each(|problem| context.output.problem(problem));
    }
    problems.first().map_or(Exit::Ok, Problem::exit)
}

fn undo(context: &Context, args: &Args, locator: &FileLocator) -> Result<Exit, Problem> {
    let files: Vec<PathBuf> =
        args.files.iter().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone())).collect();
    let vars = Variables { env: locator.env.clone(), home: locator.home.clone() };
    let (changed, problems) = apply::undo(&context.home, &files, &vars)?;
    context.output.value(&show::done(&changed, &problems), |_| show::undone(&changed));
    Ok(report(context, &problems))
}

fn remove(context: &Context, name: &str) -> Result<Exit, Problem> {
    ServerList::change(&context.home, |list| match list.servers.remove(name) {
        Some(_) => Ok(()),
        None => Err(Problem::new(Code::InstanceNotFound, format!("no server named {name:?} is declared"))
            .seen("declared", list.servers.keys().cloned().collect::<Vec<_>>())
            .next("linchpin status")),
    })?;
    let runs = Registry::new(&context.home).find_live(name).is_some();
    let value = serde_json::json!({"removed": name, "runs": runs});
    context.output.value(&value, |_| match runs {
        true => format!("{name} is no longer declared, but it is still running: linchpin stop {name}"),
        false => format!("{name} is no longer declared"),
    });
    Ok(Exit::Ok)
}

/// Determines where this user's files are.
fn locator() -> Result<FileLocator, Problem> {
    // A value that is not Unicode cannot occur in any of the files.
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let env: BTreeMap<String, String> = std::env::vars_os().filter_map(text).collect();
    let home = env.get("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home.ok_or_else(|| {
        Problem::new(Code::BadRequest, "HOME does not name a directory, so the files of agents cannot be found")
            .next("export HOME=/your/home/directory")
    })?;
    let dir = std::env::current_dir().map_err(|error| {
        Problem::from_io(&error, Code::BadRequest, "cannot determine the current directory")
            .next("change to a directory that exists")
    })?;
    let home = home.canonicalize().unwrap_or(home);
    let project = FileLocator::project_of(&dir, &home);
    Ok(FileLocator { home, env, project })
}

fn plan(context: &Context, args: &Args, locator: &FileLocator) -> Result<ImportPlan, Problem> {
    let sources: Vec<AgentFile> = match args.files.is_empty() {
        true => locator.all(),
        false => args.files.iter().map(|file| locator.one(file)).collect::<Result<_, _>>()?,
    };
    if let Some(missing) = args.files.iter().find(|file| !file.exists()) {
        let detail = format!("the file {} does not exist", missing.display());
        return Err(
            Problem::new(Code::NotFound, detail).next("linchpin import    (looks for the files of all known agents)")
        );
    }
    let declared = ServerList::read(&context.home)?.servers;
    let running = Registry::new(&context.home).scan().map(|scan| scan.entries).unwrap_or_default();
    let alive = running.into_iter().filter(|entry| entry.owner == Owner::Alive);
    let running = alive.map(|entry| (entry.record.name, entry.record.project_dir)).collect();
    ImportPlanner::new(locator, program(&locator.env), declared, running).plan(&sources)
}

/// Determines how an agent will start this program.
fn program(env: &BTreeMap<String, String>) -> LinchpinProgram {
    let path = executable();
    let found = std::env::split_paths(env.get("PATH").map_or("", String::as_str))
        .map(|dir| dir.join("linchpin"))
        .find(|candidate| candidate.is_file());
    let real = |path: &Path| path.canonicalize().ok();
    let is_found = found.is_some_and(|found| real(&found).is_some() && real(&found) == real(&path));
    // The variables that lead to this home must lead the linchpin of the agent there too.
    let moved = |names: &[&str]| -> BTreeMap<String, String> {
        names.iter().filter_map(|name| Some(((*name).to_owned(), env.get(*name)?.clone()))).collect()
    };
    let env = Some(moved(&[HOME_VAR])).filter(|env| !env.is_empty());
    let env = env.unwrap_or_else(|| moved(&["XDG_STATE_HOME", "XDG_CONFIG_HOME"]));
    LinchpinProgram { path: path.display().to_string(), is_found, env }
}

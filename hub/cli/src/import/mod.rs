//! `linchpin import`: the servers of coding agents become servers that the hub starts on first use.
//!
//! Owns the arguments and the order: find the files ([`agents`]), see what their entries are ([`entry`], [`vars`]), make a
//! plan ([`mod@plan`], [`edit`]), show it ([`show`]), and with `--apply` do it ([`mod@apply`], [`mod@file`]).
//! Invariant: without `--apply`, `--undo` or `--remove` nothing is written. Who runs it twice finds nothing to do.
//! Never: starts a server or the hub, writes `config.toml`, or shows a value of an environment or a header.

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
use agents::{Places, Source};
use jiff::Timestamp;
use linchpin_shared::declared::Declared;
use linchpin_shared::home::HOME_VAR;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::registry::{Owner, Registry};
use plan::{Plan, Planner, Program};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vars::Vars;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write: declare the servers, and put one entry in their place, with a backup beside each file
    #[arg(long)]
    apply: bool,
    /// Give the files back what was taken from them
    #[arg(long, conflicts_with = "apply")]
    undo: bool,
    /// Take a server from the list of those that are declared
    #[arg(long, value_name = "NAME", conflicts_with_all = ["apply", "undo", "files"])]
    remove: Option<String>,
    /// Only these files; without any, those of all known agents, of the user and of the present project
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn main(context: &Context, args: &Args) -> Result<Exit, Problem> {
    if let Some(name) = &args.remove {
        return remove(context, name);
    }
    let places = places()?;
    if args.undo {
        return undo(context, args, &places);
    }
    let plan = plan(context, args, &places)?;
    if !args.apply {
        context.output.value(&show::json(&plan), |_| show::plan(&plan));
        return Ok(Exit::Ok);
    }
    let (changed, problems) = apply::apply(&context.home, &plan, Timestamp::now())?;
    let unreadable = plan.files.iter().filter_map(|file| file.after.as_ref().err());
    let problems: Vec<Problem> = unreadable.cloned().chain(problems).collect();
    context.output.value(&show::done(&changed, &problems), |_| show::applied(&plan, &changed));
    Ok(told(context, &problems))
}

/// Prints what could not be done, and gives the exit code.
fn told(context: &Context, problems: &[Problem]) -> Exit {
    if !context.output.is_json() {
        problems.iter().for_each(|problem| context.output.problem(problem));
    }
    problems.first().map_or(Exit::Ok, Problem::exit)
}

fn undo(context: &Context, args: &Args, places: &Places) -> Result<Exit, Problem> {
    let files: Vec<PathBuf> =
        args.files.iter().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone())).collect();
    let vars = Vars { env: places.env.clone(), home: places.home.clone() };
    let (changed, problems) = apply::undo(&context.home, &files, &vars)?;
    context.output.value(&show::done(&changed, &problems), |_| show::undone(&changed));
    Ok(told(context, &problems))
}

fn remove(context: &Context, name: &str) -> Result<Exit, Problem> {
    Declared::change(&context.home, |list| match list.servers.remove(name) {
        Some(_) => Ok(()),
        None => Err(Problem::new(Code::InstanceNotFound, format!("no server called {name:?} is declared"))
            .seen("declared", list.servers.keys().cloned().collect::<Vec<_>>())
            .next("linchpin status")),
    })?;
    let runs = Registry::new(&context.home).find_live(name).is_some();
    let value = serde_json::json!({"removed": name, "runs": runs});
    context.output.value(&value, |_| match runs {
        true => format!("{name} is not declared any more; it still runs: linchpin stop {name}"),
        false => format!("{name} is not declared any more"),
    });
    Ok(Exit::Ok)
}

/// Where this user's files are.
fn places() -> Result<Places, Problem> {
    // What is not Unicode is no value that could stand in any of the files.
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let env: BTreeMap<String, String> = std::env::vars_os().filter_map(text).collect();
    let home = env.get("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home.ok_or_else(|| {
        Problem::new(Code::BadRequest, "HOME names no directory, so nobody can say where agents have their files")
            .next("export HOME=…")
    })?;
    let dir = std::env::current_dir().map_err(|error| {
        Problem::from_io(&error, Code::BadRequest, "cannot tell the current directory").next("cd to one that exists")
    })?;
    let home = home.canonicalize().unwrap_or(home);
    let project = Places::project_of(&dir, &home);
    Ok(Places { home, env, project })
}

fn plan(context: &Context, args: &Args, places: &Places) -> Result<Plan, Problem> {
    let sources: Vec<Source> = match args.files.is_empty() {
        true => places.all(),
        false => args.files.iter().map(|file| places.one(file)).collect::<Result<_, _>>()?,
    };
    if let Some(missing) = args.files.iter().find(|file| !file.exists()) {
        let detail = format!("there is no file {}", missing.display());
        return Err(Problem::new(Code::NotFound, detail).next("linchpin import    (looks for all that are known)"));
    }
    let declared = Declared::read(&context.home)?.servers;
    let running = Registry::new(&context.home).scan().map(|scan| scan.entries).unwrap_or_default();
    let alive = running.into_iter().filter(|entry| entry.owner == Owner::Alive);
    let running = alive.map(|entry| (entry.record.name, entry.record.project_dir)).collect();
    Planner::new(places, program(&places.env), declared, running).plan(&sources)
}

/// How an agent is to start this program.
fn program(env: &BTreeMap<String, String>) -> Program {
    let path = executable();
    let found = std::env::split_paths(env.get("PATH").map_or("", String::as_str))
        .map(|dir| dir.join("linchpin"))
        .find(|candidate| candidate.is_file());
    let real = |path: &Path| path.canonicalize().ok();
    let is_found = found.is_some_and(|found| real(&found).is_some() && real(&found) == real(&path));
    // What leads to this home must lead the agent's linchpin there too.
    let moved = |names: &[&str]| -> BTreeMap<String, String> {
        names.iter().filter_map(|name| Some(((*name).to_owned(), env.get(*name)?.clone()))).collect()
    };
    let env = Some(moved(&[HOME_VAR])).filter(|env| !env.is_empty());
    let env = env.unwrap_or_else(|| moved(&["XDG_STATE_HOME", "XDG_CONFIG_HOME"]));
    Program { path: path.display().to_string(), is_found, env }
}

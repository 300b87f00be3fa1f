//! `linchpin run` without a command line parser: the agent in the foreground, or with `--detach` under a keeper.
//!
//! ```sh
//! cargo run -p linchpin-instance --example run -- --name hello -- python3 -m http.server 8000
//! ```
#![expect(clippy::print_stderr, reason = "an example prints")]

use linchpin_instance::agent::{self, Kind, LaunchOptions, PortChoice, RunOptions};
use linchpin_instance::keeper::{self, Relaunch};
use linchpin_instance::{Conflict, agent::Ended};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Exit, Problem};
use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let exit = match words.first().and_then(|word| word.to_str()) {
        // The two hidden verbs of a relaunch. A keeper does almost nothing, so one thread is enough.
        Some("--keeper") => on(Builder::new_current_thread().enable_all(), keeper::keep()),
        Some("--agent") => on(Builder::new_multi_thread().enable_all(), keeper::serve()),
        _ => on(Builder::new_multi_thread().enable_all(), run(&words)),
    };
    ExitCode::from(exit as u8)
}

fn on(builder: &mut Builder, work: impl Future<Output = Exit>) -> Exit {
    match builder.build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("cannot start: {error}");
            Exit::Failed
        }
    }
}

async fn run(words: &[OsString]) -> Exit {
    match try_run(words).await {
        Ok(message) => {
            eprintln!("{message}");
            Exit::Ok
        }
        Err(problem) => {
            eprintln!("{problem}");
            problem.exit()
        }
    }
}

async fn try_run(words: &[OsString]) -> Result<String, Problem> {
    let home = Home::from_env()?;
    let (options, detach) = parse(words);
    if !detach {
        let ready = |record: &linchpin_shared::registry::record::Record| {
            eprintln!("{} listens at {}", record.name, record.endpoint);
        };
        return Ok(match agent::run(&home, options, ready).await? {
            Ended::Stopped(why) => format!("stopped: {why}"),
            Ended::Done => String::from("done"),
        });
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let relaunch =
        Relaunch { executable, keeper: vec!["--keeper".into()], agent: vec!["--agent".into()], typed: Vec::new() };
    let started = keeper::detach(&home, relaunch, options).await?;
    Ok(format!("{} runs in the background, pid {}", started.name, started.pid))
}

fn parse(words: &[OsString]) -> (RunOptions, bool) {
    let (flags, command) = match words.iter().position(|word| word == "--") {
        Some(end) => (&words[..end], words[end + 1..].to_vec()),
        None => (words, Vec::new()),
    };
    let value = |flag: &str| {
        let at = flags.iter().position(|word| word == flag)?;
        Some(flags.get(at + 1)?.to_string_lossy().into_owned())
    };
    let has = |flag: &str| flags.iter().any(|word| word == flag);
    let kind = match value("--mcp-url") {
        Some(url) => Kind::McpUrl(url),
        None if has("--mcp") => Kind::McpStdio,
        None => Kind::Plain,
    };
    let conflict = match (has("--take-over"), has("--alongside")) {
        (true, _) => Conflict::TakeOver,
        (false, true) => Conflict::Alongside,
        (false, false) => Conflict::Fail,
    };
    let project_dir = std::env::current_dir().unwrap_or_default();
    let options = RunOptions {
        name: value("--name"),
        project_dir,
        command,
        kind,
        conflict,
        port: PortChoice::Default,
        pass_through: true,
        launch: LaunchOptions::default(),
    };
    (options, has("--detach"))
}

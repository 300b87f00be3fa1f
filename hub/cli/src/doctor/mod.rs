//! `linchpin doctor [--fix] [--save FILE]`: what is wrong with this machine's Linchpin, and what to do about it.
//!
//! Owns the order of the checks, the report and its exit code: failed when something is worse than a warning.
//! Invariant: without `--fix` nothing is written but the file of `--save`; a hub is asked if one runs and never started;
//! every check is bounded in time; no secret is in any output. A home that cannot even be named is a finding too.
//! Never: repairs what is not surely ours and surely dead; that is left to a person, with the steps.

mod check;
mod fix;
mod home;
mod hub;
mod places;
mod records;
mod registry;
mod save;
mod secrets;
mod system;
mod who;

use super::output::Output;
use check::{Check, Fix, Level, worst};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::settings::Settings;
use secrets::Secrets;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Mend what is safe: modes of our own files, records, leases and temporary files of the dead
    #[arg(long)]
    fix: bool,
    /// Write a text for a fault report, secrets removed, to this file; - prints it
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// What was found and mended.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    checks: Vec<Check>,
    worst: Level,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fixes: Option<Vec<Fix>>,
}

pub(super) async fn main(output: Output, home: Result<Home, Problem>, args: Args) -> Result<Exit, Problem> {
    let to_screen = args.save.as_deref() == Some(Path::new("-"));
    if to_screen && output.is_json() {
        return Err(Problem::new(Code::BadRequest, "--save - prints a text, and --json prints JSON")
            .next("linchpin doctor --json --save FILE"));
    }
    // A file may be removed by mending; what was secret in it stays so.
    let before = home.as_ref().map_or_else(|_| Secrets::default(), Secrets::of);
    let fixes = args.fix.then(|| home.as_ref().map_or_else(|_| Vec::new(), fix::mend));
    let (checks, hub) = match &home {
        Ok(home) => examine(home).await,
        Err(problem) => (vec![Check::error("home", problem.clone())], None),
    };
    let secrets = before.and(home.as_ref().map_or_else(|_| Secrets::default(), Secrets::of));
    let report = Report { worst: worst(&checks), checks, fixes }.without(&secrets)?;
    if let Some(path) = &args.save {
        let status =
            match hub.as_ref().and_then(|hub| hub.file.as_ref()).filter(|_| hub.as_ref().is_some_and(hub::Facts::runs))
            {
                Some(file) => hub::status(file).await,
                None => None,
            };
        let text = save::text(&report, status, home.as_ref().ok(), &secrets);
        if to_screen {
            output.line(text.trim_end());
            return Ok(report.exit());
        }
        save::write(path, &text)?;
    }
    let saved = args.save.map_or_else(String::new, |path| format!("\nsaved to {}", path.display()));
    output.value(&to_value(&report)?, |_| report.text() + &saved);
    Ok(report.exit())
}

/// All checks, in the order in which one fault explains the next.
async fn examine(home: &Home) -> (Vec<Check>, Option<hub::Facts>) {
    let (settings, found) = settings(home);
    let mut checks = home::checks(home, &settings.log);
    checks.push(found);
    checks.extend(registry::checks(home).await);
    checks.extend(records::checks(home));
    let hub = hub::Facts::gather(home).await;
    checks.extend(system::checks(home, &settings, &hub));
    checks.extend(hub.checks(home, &settings));
    if let Some(file) = hub.file.as_ref().filter(|_| hub.runs()) {
        checks.extend(hub::troubles(hub::status(file).await));
    }
    (checks, Some(hub))
}

/// The settings, or the defaults with what is wrong.
fn settings(home: &Home) -> (Settings, Check) {
    let path = home.settings_file();
    // A pipe in the place of the file would make its reader wait for ever.
    if std::fs::metadata(path).is_ok_and(|facts| !facts.is_file()) {
        let problem = Problem::new(Code::BadSettings, format!("{} is not a file", path.display()));
        return (Settings::default(), Check::error("settings", problem.next(format!("ls -ld {}", path.display()))));
    }
    match Settings::load(home) {
        Ok(settings) => {
            let seen = if path.exists() { path.display().to_string() } else { "no file, the defaults".to_owned() };
            (settings, Check::ok("settings", seen))
        }
        Err(problem) => (Settings::default(), Check::error("settings", problem)),
    }
}

impl Report {
    /// The same without secrets.
    fn without(self, secrets: &Secrets) -> Result<Self, Problem> {
        let mut value = to_value(&self)?;
        secrets.value(&mut value);
        serde_json::from_value(value).map_err(|error| Problem::new(Code::Internal, error.to_string()))
    }

    fn text(&self) -> String {
        let fixes = self.fixes.iter().flatten().map(Fix::text);
        let lines: Vec<String> = fixes.chain(self.checks.iter().map(Check::text)).collect();
        let number = |level| self.checks.iter().filter(|check| check.level == level).count();
        format!("{}\n\nerrors: {}, warnings: {}", lines.join("\n"), number(Level::Error), number(Level::Warning))
    }

    fn exit(&self) -> Exit {
        if self.worst == Level::Error { Exit::Failed } else { Exit::Ok }
    }
}

fn to_value(report: &Report) -> Result<Value, Problem> {
    serde_json::to_value(report).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}

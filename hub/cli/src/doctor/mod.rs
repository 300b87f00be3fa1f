//! `linchpin doctor [--fix] [--save FILE]` finds out what is wrong with Linchpin on this machine, and what to do about
//! it.
//!
//! It runs the checks in order and exits with an error if a finding is worse than a warning. Without `--fix` it writes
//! nothing but the file of `--save`. It asks a running hub but never starts one, every check has a time limit, and no
//! output contains a secret. A home that cannot be determined is a finding too. It repairs only what certainly belongs
//! to us and whose process is certainly dead; the rest is left to a person, with the steps.

mod check;
mod fix;
mod home;
mod hub;
mod places;
mod process_info;
mod records;
mod registry;
mod save;
mod secrets;
mod system;

use super::output::Output;
use check::{Check, Fix, Severity, worst};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Exit, Problem};
use linchpin_shared::settings::Settings;
use secrets::Secrets;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Repair what is safe to repair: the modes of our own files, and records, leases and temporary files of dead
    /// instances
    #[arg(long)]
    fix: bool,
    /// Write a report without secrets to this file, for a bug report; - prints it
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// What was found and repaired.
#[derive(Debug, Serialize, Deserialize)]
struct DoctorReport {
    checks: Vec<Check>,
    worst: Severity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fixes: Option<Vec<Fix>>,
}

pub(super) async fn main(output: Output, home: Result<Home, Problem>, args: Args) -> Result<Exit, Problem> {
    let to_screen = args.save.as_deref() == Some(Path::new("-"));
    if to_screen && output.is_json() {
        return Err(Problem::new(Code::BadRequest, "--save - prints text, but --json prints JSON")
            .next("linchpin doctor --json --save FILE"));
    }
    // A repair may remove a file, and what was secret in it must stay secret.
    let before = home.as_ref().map_or_else(|_| Secrets::default(), Secrets::of);
    let fixes = args.fix.then(|| home.as_ref().map_or_else(|_| Vec::new(), fix::repair));
    let (checks, hub) = match &home {
        Ok(home) => examine(home).await,
        Err(problem) => (vec![Check::error("home", problem.clone())], None),
    };
    let secrets = before.and(home.as_ref().map_or_else(|_| Secrets::default(), Secrets::of));
    let report = DoctorReport { worst: worst(&checks), checks, fixes }.without(&secrets)?;
    if let Some(path) = &args.save {
        let status = match hub
            .as_ref()
            .and_then(|hub| hub.file.as_ref())
            .filter(|_| hub.as_ref().is_some_and(hub::HubFindings::runs))
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

/// Runs all checks, in the order in which one fault explains the next.
async fn examine(home: &Home) -> (Vec<Check>, Option<hub::HubFindings>) {
    let (settings, found) = settings(home);
    let mut checks = home::checks(home, &settings.log);
    checks.push(found);
    checks.extend(registry::checks(home).await);
    checks.extend(records::checks(home));
    let hub = hub::HubFindings::gather(home).await;
    checks.extend(system::checks(home, &settings, &hub));
    checks.extend(hub.checks(home, &settings));
    if let Some(file) = hub.file.as_ref().filter(|_| hub.runs()) {
        checks.extend(hub::reported_problems(hub::status(file).await));
    }
    (checks, Some(hub))
}

/// Returns the settings, or the defaults together with what is wrong.
fn settings(home: &Home) -> (Settings, Check) {
    let path = home.settings_file();
    // If a pipe were in the place of the file, reading it would block.
    if std::fs::metadata(path).is_ok_and(|facts| !facts.is_file()) {
        let problem = Problem::new(Code::BadSettings, format!("{} is not a file", path.display()));
        return (Settings::default(), Check::error("settings", problem.next(format!("ls -ld {}", path.display()))));
    }
    match Settings::load(home) {
        Ok(settings) => {
            let seen = if path.exists() {
                path.display().to_string()
            } else {
                "there is no file, so the defaults apply".to_owned()
            };
            (settings, Check::ok("settings", seen))
        }
        Err(problem) => (Settings::default(), Check::error("settings", problem)),
    }
}

impl DoctorReport {
    /// Removes the secrets.
    fn without(self, secrets: &Secrets) -> Result<Self, Problem> {
        let mut value = to_value(&self)?;
        secrets.value(&mut value);
        serde_json::from_value(value).map_err(|error| Problem::new(Code::Internal, error.to_string()))
    }

    fn text(&self) -> String {
        let fixes = self.fixes.iter().flatten().map(Fix::text);
        let lines: Vec<String> = fixes.chain(self.checks.iter().map(Check::text)).collect();
        let number = |level| self.checks.iter().filter(|check| check.level == level).count();
        format!("{}\n\nerrors: {}, warnings: {}", lines.join("\n"), number(Severity::Error), number(Severity::Warning))
    }

    fn exit(&self) -> Exit {
        if self.worst == Severity::Error { Exit::Failed } else { Exit::Ok }
    }
}

fn to_value(report: &DoctorReport) -> Result<Value, Problem> {
    serde_json::to_value(report).map_err(|error| Problem::new(Code::Internal, error.to_string()))
}

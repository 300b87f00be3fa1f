//! Runs the official conformance suite against a URL and reads the score from the files that it writes.
//!
//! A scenario that left no result counts as failed. The suite judges; nothing is judged here.

use crate::kit;
use crate::lab::{Lab, verb::Output};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A revision of MCP, and how many scenarios the suite has for its servers.
#[derive(Debug, Clone, Copy)]
pub struct Revision {
    /// Its name.
    pub name: &'static str,
    /// How many scenarios.
    pub scenarios: usize,
}

/// The last revision with sessions.
pub const LEGACY: Revision = Revision { name: "2025-11-25", scenarios: 33 };

/// The first revision without sessions.
pub const MODERN: Revision = Revision { name: "2026-07-28", scenarios: 50 };

/// The time limit of one scenario. It takes a second at most; the 30 s of the suite are meant for remote servers.
const SCENARIO_MS: &str = "10000";

/// The checks that did not pass, for each scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score(pub BTreeMap<String, BTreeSet<String>>);

impl Score {
    /// How many scenarios passed all their checks.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.0.values().filter(|failed| failed.is_empty()).count()
    }

    /// The names of the scenarios that passed.
    #[must_use]
    pub fn passing(&self) -> BTreeSet<&str> {
        self.0.iter().filter(|(_, failed)| failed.is_empty()).map(|(name, _)| name.as_str()).collect()
    }

    /// The scenarios in which a check failed that `direct` passed, with those checks.
    #[must_use]
    pub fn worse_than(&self, direct: &Self) -> BTreeMap<String, BTreeSet<String>> {
        let lost = |(name, failed): (&String, &BTreeSet<String>)| {
            let allowed = direct.0.get(name).cloned().unwrap_or_default();
            let lost: BTreeSet<_> = failed.difference(&allowed).cloned().collect();
            (!lost.is_empty()).then(|| (name.clone(), lost))
        };
        self.0.iter().filter_map(lost).collect()
    }
}

/// Runs all scenarios of a revision for servers against this URL. `name` distinguishes the runs of a lab.
///
/// # Errors
/// If the kit is not installed, or the suite did not run all of them.
pub async fn run(lab: &Lab, name: &str, url: &str, revision: Revision) -> Result<Score> {
    let results = lab.dir().join("out").join(name);
    let line = kit::conformance()?;
    let (program, script) = line.split_first().context("an empty command line")?;
    let mut command = lab.command(program);
    command.args(script).args(["server", "--url", url, "--requirements", revision.name]);
    command.args(["--timeout", SCENARIO_MS]).arg("--output-dir").arg(&results);
    let output = Output::of(command).await?;
    let score = read(&results)?;
    ensure!(
        score.0.len() == revision.scenarios,
        "{} of {} scenarios ran: {}{}",
        score.0.len(),
        revision.scenarios,
        output.stdout,
        output.stderr
    );
    Ok(score)
}

/// The results in a directory: `server-SCENARIO-TIME/checks.json` for each scenario, where the time has 24 characters.
fn read(results: &Path) -> Result<Score> {
    let mut score = BTreeMap::new();
    for entry in std::fs::read_dir(results).context("the suite left no results")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let scenario = name.strip_prefix("server-").and_then(|rest| rest.get(..rest.len().checked_sub(25)?));
        let scenario = scenario.with_context(|| format!("{name} is not a result of the suite"))?;
        let failed = match std::fs::read(entry.path().join("checks.json")) {
            Ok(checks) => failed(&serde_json::from_slice::<Vec<Value>>(&checks)?),
            // The scenario took too long and was aborted.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeSet::from([String::from("no result")]),
            Err(error) => return Err(error.into()),
        };
        score.insert(scenario.to_owned(), failed);
    }
    Ok(Score(score))
}

fn failed(checks: &[Value]) -> BTreeSet<String> {
    let failed = checks.iter().filter(|check| matches!(check["status"].as_str(), Some("FAILURE" | "WARNING")));
    failed.map(|check| format!("{} {}", check["status"], check["id"])).collect()
}

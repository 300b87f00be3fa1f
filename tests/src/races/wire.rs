//! What the driver says to a worker and hears from it: one JSON value a line on the worker's stdin and stdout.
//!
//! Owns [`Order`], [`Answer`] and the records that workers write. Invariant: every record carries a label that only the
//! whole record can bear out, so one that is put together from two writes is seen to be torn.
//! Never: knows what an answer should have been; the [`super::model`] does.

use anyhow::{Context, Result, ensure};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::registry::record::{Record, instance_id};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What a worker is to do. It holds one registration at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Register this name for this project, in a record with so many bytes of filling.
    Register {
        /// The name.
        name: String,
        /// The directory of the project.
        project: String,
        /// Bytes of filling.
        fill: usize,
    },
    /// Write the record with another port and another filling.
    Update {
        /// The port of the endpoint.
        port: u16,
        /// Bytes of filling.
        fill: usize,
    },
    /// Look after the record, as instances do every second.
    Ensure,
    /// Unregister.
    Unregister,
    /// Drop the registration without a word.
    LetGo,
    /// Read the registry so many times.
    Scan(u32),
    /// Ask for every record to be swept, which those of the living must outlive.
    Sweep,
    /// Remove what the dead left beside records.
    Tidy,
    /// Put aside every file that is no record.
    Quarantine,
    /// Take the directory lock and keep it.
    Lock,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Registered, as this life, after so many microseconds.
    Registered {
        /// The generation of the record.
        generation: Uuid,
        /// How long that took.
        micros: u64,
    },
    /// Done.
    Done,
    /// A problem.
    Refused {
        /// Its code.
        code: Code,
        /// What it says.
        detail: String,
    },
    /// Read: the files that were refused as records, and what else was wrong with what was read.
    Read {
        /// The files.
        rejected: Vec<PathBuf>,
        /// What was torn.
        torn: Vec<String>,
    },
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self::Refused { code: problem.code, detail: problem.to_string() }
    }
}

/// A record of this process.
///
/// # Errors
/// When this process cannot be identified.
pub fn record(name: &str, project: &str, fill: usize) -> Result<Record> {
    let mut record: Record = serde_json::from_value(json!({
        "format": 1, "id": instance_id(Path::new(project), name), "name": name, "generation": Uuid::now_v7(),
        "endpoint": "http://127.0.0.1:1", "protocol": "h2c", "process": Identity::current()?,
        "project_dir": project, "version": "0", "secret": "none", "registered_at": "2026-01-01T00:00:00Z"
    }))?;
    refill(&mut record, 1, fill);
    Ok(record)
}

/// Writes another port and filling into a record, and what bears both out.
pub fn refill(record: &mut Record, port: u16, fill: usize) {
    record.endpoint = format!("http://127.0.0.1:{port}");
    record.labels.insert(String::from("fill"), "x".repeat(fill));
    record.labels.insert(String::from("sum"), sum(record, fill));
}

/// Checks that a record is what one write wrote.
///
/// # Errors
/// When it is torn.
pub fn is_whole(record: &Record) -> Result<()> {
    let label = |key: &str| record.labels.get(key).with_context(|| format!("no {key} in {record:?}"));
    ensure!(*label("sum")? == sum(record, label("fill")?.len()), "put together from two writes: {record:?}");
    Ok(())
}

fn sum(record: &Record, fill: usize) -> String {
    format!("{} {} {} {fill}", record.name, record.generation, record.endpoint)
}

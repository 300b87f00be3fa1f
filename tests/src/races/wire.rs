//! The protocol between the driver and a worker: one JSON value per line on standard input and output.
//!
//! Every record that a worker writes has a label that only the whole record can confirm, so a record that is mixed from
//! two writes is recognised as torn. What an answer should have been is for the [`super::model`] to decide.

use anyhow::{Context, Result, ensure};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::registry::record::{Record, instance_id};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// An order to a worker, which holds one registration at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Register this name for this project, in a record with this many bytes of filling.
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
    /// Restore the record if it is damaged, as instances do every second.
    Ensure,
    /// Unregister.
    Unregister,
    /// Drop the registration without unregistering.
    LetGo,
    /// Read the registry this many times.
    Scan(u32),
    /// Sweep every record; those of live owners must stay.
    Sweep,
    /// Remove what dead processes left beside the records.
    Tidy,
    /// Quarantine every file that is not a record.
    Quarantine,
    /// Take the directory lock and keep it.
    Lock,
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The registration succeeded.
    Registered {
        /// The generation of the record.
        generation: Uuid,
        /// How long it took, in microseconds.
        micros: u64,
    },
    /// Done.
    Done,
    /// The order failed with a problem.
    Refused {
        /// Its code.
        code: Code,
        /// Its text.
        detail: String,
    },
    /// The result of reading.
    Read {
        /// The files that were rejected as records.
        rejected: Vec<PathBuf>,
        /// The records that were torn.
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
/// If this process cannot be identified.
pub fn record(name: &str, project: &str, fill: usize) -> Result<Record> {
    let mut record: Record = serde_json::from_value(json!({
        "format": 1, "id": instance_id(Path::new(project), name), "name": name, "generation": Uuid::now_v7(),
        "endpoint": "http://127.0.0.1:1", "protocol": "h2c", "process": Identity::current()?,
        "project_dir": project, "version": "0", "secret": "none", "registered_at": "2026-01-01T00:00:00Z"
    }))?;
    refill(&mut record, 1, fill);
    Ok(record)
}

/// Writes another port and filling into a record, and the label that confirms both.
pub fn refill(record: &mut Record, port: u16, fill: usize) {
    record.endpoint = format!("http://127.0.0.1:{port}");
    record.labels.insert(String::from("fill"), "x".repeat(fill));
    record.labels.insert(String::from("sum"), sum(record, fill));
}

/// Checks that a record comes from a single write.
///
/// # Errors
/// If it is torn.
pub fn is_whole(record: &Record) -> Result<()> {
    let label = |key: &str| record.labels.get(key).with_context(|| format!("no {key} in {record:?}"));
    ensure!(*label("sum")? == sum(record, label("fill")?.len()), "mixed from two writes: {record:?}");
    Ok(())
}

fn sum(record: &Record, fill: usize) -> String {
    format!("{} {} {} {fill}", record.name, record.generation, record.endpoint)
}

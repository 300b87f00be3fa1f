//! The report that a person attaches to a bug report.
//!
//! Every part of it goes through [`Secrets`]. The file is new and has mode 0600, whatever was in its place. It does not
//! contain the output of the processes of instances, because that may be anything.

use super::DoctorReport;
use super::secrets::Secrets;
use linchpin_shared::home::Home;
use linchpin_shared::logfile;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::atomic;
use serde_json::Value;
use std::path::Path;

/// How many lines of each log of the hub it contains.
const LINES: usize = 50;

/// The length to which a line is cut, in characters.
const LINE_LEN: usize = 2_000;

/// Returns the whole report.
pub(super) fn text(report: &DoctorReport, status: Option<Value>, home: Option<&Home>, secrets: &Secrets) -> String {
    let mut out = format!(
        "linchpin {}\n{}\n\n== doctor\n{}\n",
        env!("CARGO_PKG_VERSION"),
        secrets.text(&platform()),
        report.text()
    );
    out.push_str("\n== hub\n");
    match status {
        Some(mut status) => {
            secrets.value(&mut status);
            out.push_str(&format!("{status:#}\n"));
        }
        None => out.push_str("no hub answers\n"),
    }
    for name in ["hub.log", "hub-error.log"] {
        out.push_str(&format!("\n== {name}, the last {LINES} lines\n"));
        out.push_str(&home.map_or_else(String::new, |home| log(&home.logs().join(name), secrets)));
    }
    out
}

fn platform() -> String {
    let system = rustix::system::uname();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("\"\"")
        .trim_matches('"')
        .to_owned();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{} {} {} {name}, {processors} processors",
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        system.machine().to_string_lossy(),
    )
}

fn log(path: &Path, secrets: &Secrets) -> String {
    // The lines are joined before secrets are removed, because a secret may continue on the next line.
    let lines = match logfile::tail(path, LINES) {
        Ok(lines) => secrets.text(&lines.join("\n")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "it does not exist".to_owned(),
        Err(error) => format!("it cannot be read: {error}"),
    };
    lines.lines().fold(String::new(), |out, line| out + &line.chars().take(LINE_LEN).collect::<String>() + "\n")
}

/// Writes the report with mode 0600, and replaces whatever was there.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Problem> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    atomic::write(&path, text.as_bytes()).map_err(|error| {
        let dir = path.parent().unwrap_or(&path).display();
        Problem::from_io(&error, Code::Internal, format!("cannot write {}", path.display()))
            .seen("path", path.display().to_string())
            .next(format!("ls -ld {dir}; df -h {dir}"))
            .next("linchpin doctor --save -    (prints it instead)")
    })
}

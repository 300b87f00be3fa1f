//! The results: one row for each client and server, one column for each fault, and the document that contains them.

use super::faults::Fault;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// The document, from the root of the workspace.
const DOCUMENT: &str = "docs/continuity.md";

/// If this variable is set, the document is written instead of compared.
const WRITE: &str = "LINCHPIN_WRITE_DOCS";

/// A table of the document.
pub(crate) struct Table {
    section: &'static str,
    faults: &'static [Fault],
    /// In the order of their first results.
    rows: Vec<(&'static str, &'static str)>,
    cells: BTreeMap<(&'static str, &'static str, usize), &'static str>,
    failures: Vec<String>,
}

impl Table {
    pub(crate) fn new(section: &'static str, faults: &'static [Fault]) -> Self {
        Self { section, faults, rows: Vec::new(), cells: BTreeMap::new(), failures: Vec::new() }
    }

    /// Notes the result of one pair. A pair that a fault does not affect must work too.
    pub(crate) fn note(
        &mut self,
        client: &'static str,
        backend: &'static str,
        fault: Fault,
        injected: bool,
        outcome: Result<()>,
    ) {
        if !self.rows.contains(&(client, backend)) {
            self.rows.push((client, backend));
        }
        let at = self.faults.iter().position(|known| *known == fault).unwrap_or_default();
        let cell = match (&outcome, injected) {
            (Ok(()), true) => "ok",
            (Ok(()), false) => "–",
            (Err(_), _) => "FAILED",
        };
        self.cells.insert((client, backend, at), cell);
        if let Err(error) = outcome {
            self.failed(client, fault, &format!("{backend}: {error:#}"));
        }
    }

    /// Notes another failure.
    pub(crate) fn failed(&mut self, client: &str, fault: Fault, why: &str) {
        self.failures.push(format!("{client}, {}: {why}", fault.name()));
    }

    fn text(&self) -> String {
        let mut text = String::from("| client | server |");
        for fault in self.faults {
            let _ = write!(text, " {} |", fault.name());
        }
        text.push_str(" same session |\n|---|---|");
        text.push_str(&"---|".repeat(self.faults.len() + 1));
        text.push('\n');
        for (client, backend) in &self.rows {
            let cells: Vec<_> = (0..self.faults.len())
                .map(|at| self.cells.get(&(*client, *backend, at)).copied().unwrap_or("?"))
                .collect();
            let whole = if cells.iter().all(|cell| matches!(*cell, "ok" | "–")) { "ok" } else { "FAILED" };
            let _ = writeln!(text, "| {client} | {backend} | {} | same session: {whole} |", cells.join(" | "));
        }
        text
    }

    /// Prints the table, and checks that nothing failed and that the document contains it.
    #[expect(clippy::print_stdout, reason = "the matrix is what this test is run for")]
    pub(crate) fn holds(self) -> Result<()> {
        let text = self.text();
        println!("{text}");
        ensure!(self.failures.is_empty(), "{} failures:\n{}\n{text}", self.failures.len(), self.failures.join("\n"));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(DOCUMENT);
        let document = std::fs::read_to_string(&path).with_context(|| DOCUMENT)?;
        let (begin, end) = (format!("<!-- {}: begin -->\n", self.section), format!("<!-- {}: end -->", self.section));
        let (before, rest) = document.split_once(&begin).with_context(|| format!("no {begin} in {DOCUMENT}"))?;
        let (known, after) = rest.split_once(&end).with_context(|| format!("no {end} in {DOCUMENT}"))?;
        if known == text {
            return Ok(());
        }
        if std::env::var_os(WRITE).is_some() {
            return Ok(std::fs::write(&path, format!("{before}{begin}{text}{end}{after}"))?);
        }
        bail!("{DOCUMENT} differs; {WRITE}=1 writes the measured table:\n{text}")
    }
}

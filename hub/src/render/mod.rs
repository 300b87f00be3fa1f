//! Renders the JSON of the API as text, for a terminal and for agents that read text.
//!
//! Both use the same functions, so that a person and an agent see the same words. They are pure: JSON in, text out.

pub mod explain;
pub mod status;

use jiff::Timestamp;
use serde_json::Value;

/// The version of the JSON that the API and `--json` print. It grows when a field changes its meaning or is removed.
pub const SCHEMA_VERSION: u32 = 1;

/// Returns the elements of an array; empty if it is not an array.
#[must_use]
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns a string without its quotes, any other value as JSON, and `-` for null.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| if value.is_null() { "-".to_owned() } else { value.to_string() }, str::to_owned)
}

/// Returns how long ago a time stamp was.
#[must_use]
pub fn ago(at: &Value) -> String {
    let Some(at) = at.as_str().and_then(|at| at.parse::<Timestamp>().ok()) else { return "-".to_owned() };
    duration(Timestamp::now().duration_since(at).as_secs_f64().max(0.0))
}

/// Returns how long it is until a time stamp.
#[must_use]
pub fn until(at: &Value) -> Option<String> {
    let at = at.as_str()?.parse::<Timestamp>().ok()?;
    Some(duration(at.duration_since(Timestamp::now()).as_secs_f64().max(0.0)))
}

/// Formats a number of seconds in the largest unit that fits.
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

/// Aligns columns with two spaces between them. The last column is not padded.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_use_the_largest_unit() {
        assert_eq!([0.05, 5.0, 600.0, 10_000.0, 1e6].map(duration), ["50 ms", "5 s", "10 min", "3 h", "12 days"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["NAME".to_owned(), "STATE".to_owned()], vec!["a".to_owned(), "active".to_owned()]];
        assert_eq!(table(&rows), "NAME  STATE\na     active\n");
    }
}

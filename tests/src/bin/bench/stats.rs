//! Samples, and the table of targets beside the measured numbers.

use std::time::Duration;

/// Many measured durations of one thing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The sample that `percent` of all do not exceed (nearest rank); zero without samples.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }
}

/// Milliseconds with three decimals.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

/// A line of the table of targets.
pub(crate) struct Row {
    what: String,
    target: String,
    measured: String,
    verdict: &'static str,
}

impl Row {
    pub(crate) fn time(what: impl Into<String>, target: Duration, measured: Duration) -> Self {
        Self { what: what.into(), target: ms(target), measured: ms(measured), verdict: verdict(measured <= target) }
    }

    pub(crate) fn memory(what: impl Into<String>, target_mib: f64, measured_mib: f64) -> Self {
        let mib = |value: f64| format!("{value:.1} MiB");
        let verdict = verdict(measured_mib <= target_mib);
        Self { what: what.into(), target: mib(target_mib), measured: mib(measured_mib), verdict }
    }

    pub(crate) fn percent(what: impl Into<String>, target: f64, measured: f64) -> Self {
        let percent = |value: f64| format!("{value:.2} %");
        let verdict = verdict(measured <= target);
        Self { what: what.into(), target: percent(target), measured: percent(measured), verdict }
    }

    /// A number without a target.
    pub(crate) fn seen(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self { what: what.into(), target: String::from("-"), measured: measured.into(), verdict: "" }
    }
}

const fn verdict(held: bool) -> &'static str {
    if held { "held" } else { "MISSED" }
}

/// Formats columns as wide as their widest cell.
pub(crate) fn table(head: &[&str], lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or_default()
    };
    let line = |cells: &[String]| {
        let padded = cells.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<w$}", w = width(column)),
            _ => format!("{cell:>w$}", w = width(column)),
        });
        padded.collect::<Vec<_>>().join("  ") + "\n"
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(line(&head)).chain(lines.iter().map(|cells| line(cells))).collect()
}

/// The table of targets.
pub(crate) fn targets(rows: &[Row]) -> String {
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| vec![row.what.clone(), row.target.clone(), row.measured.clone(), row.verdict.to_owned()])
        .collect();
    table(&["what", "at most", "measured", ""], &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut samples = Samples::default();
        assert_eq!(samples.median(), Duration::ZERO);
        for sample in (1..=100).rev() {
            samples.add(Duration::from_millis(sample));
        }
        let of = |percent| samples.percentile(percent).as_millis();
        assert_eq!((of(0), of(50), of(99), of(100)), (1, 50, 99, 100));
    }

    #[test]
    fn missed_target_is_reported() {
        let rows = [
            Row::time("a", Duration::from_millis(1), Duration::from_micros(500)),
            Row::time("bc", Duration::from_millis(1), Duration::from_millis(2)),
        ];
        let text = targets(&rows);
        assert!(text.contains("0.500 ms    held") && text.contains("2.000 ms  MISSED"), "{text}");
    }
}

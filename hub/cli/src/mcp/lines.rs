//! Standard input and output as lines.
//!
//! Each has a thread of its own, because blocking reads and writes must neither keep the runtime from ending nor keep
//! it from working. A line that is too long is skipped completely, and the next one is read.

use bytes::Bytes;
use linchpin_shared::json_line::one_line;
use std::io::{BufRead, Read, Write};
use tokio::sync::mpsc;

/// The longest line, in bytes. The default of the hub's own limit on a message is the same.
pub(super) const MAX_LINE: usize = 64 << 20;

/// The number of lines that wait for the hub, or for the agent to read them.
const QUEUE: usize = 256;

/// One line of input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InputLine {
    Whole(Bytes),
    TooLong,
}

/// Starts to read standard input.
pub(super) fn read_lines() -> mpsc::Receiver<InputLine> {
    let (tx, rx) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        while let Some(line) = read_line(&mut input, MAX_LINE) {
            let empty = matches!(&line, InputLine::Whole(line) if line.is_empty());
            if !empty && tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    rx
}

/// Returns the next line without its line break; `None` at the end of the input.
fn read_line(input: &mut impl BufRead, longest: usize) -> Option<InputLine> {
    let mut line = Vec::new();
    let length = input.by_ref().take(longest as u64 + 1).read_until(b'\n', &mut line).ok()?;
    match length {
        0 => None,
        length if length > longest && !line.ends_with(b"\n") => {
            input.skip_until(b'\n').ok()?;
            Some(InputLine::TooLong)
        }
        _ => Some(InputLine::Whole(Bytes::copy_from_slice(line.trim_ascii()))),
    }
}

/// Starts to write lines to standard output. The receiver resolves when the last line is written.
pub(super) fn write_lines() -> (mpsc::Sender<Bytes>, tokio::sync::oneshot::Receiver<()>) {
    let (tx, mut rx) = mpsc::channel::<Bytes>(QUEUE);
    let (done, written) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        while let Some(line) = rx.blocking_recv().map(one_line) {
            let mut out = std::io::stdout().lock();
            let whole = out.write_all(&line).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
            if whole.is_err() {
                return;
            }
        }
        let _ = done.send(());
    });
    (tx, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_skipped() {
        let mut input = &b"{}\n0123456789\n [1] \nend"[..];
        let lines: Vec<_> = std::iter::from_fn(|| read_line(&mut input, 8)).collect();
        let whole = |text: &'static str| InputLine::Whole(Bytes::from_static(text.as_bytes()));
        assert_eq!(lines, [whole("{}"), InputLine::TooLong, whole("[1]"), whole("end")]);
    }
}

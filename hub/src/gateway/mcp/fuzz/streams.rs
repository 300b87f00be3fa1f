//! What cuts bytes into messages: server-sent events, and lines.
//!
//! Owns a second reader of each, written from the standards without regard to speed. Invariant: both give the same, in
//! one piece and in any pieces.

use super::{Checked, ensure};
use crate::gateway::mcp::protocol::sse::{Decoder, encode};
use linchpin_instance::fuzz::lines;

/// More than any input has.
const MOST: usize = 1 << 24;

/// Checks both.
pub(super) fn check(data: &[u8]) -> Checked {
    let whole = events(std::iter::once(data));
    ensure(whole == reference(data), || format!("events: {whole:?}, by the standard {:?}", reference(data)))?;
    let cut = events(pieces(data));
    ensure(cut == whole, || format!("events in pieces: {cut:?}, in one {whole:?}"))?;
    if let Ok(text) = std::str::from_utf8(data) {
        let back = events(std::iter::once(&*encode(text)));
        let expected: Vec<_> =
            Some(text.replace('\r', "\n").into_bytes()).filter(|text| !text.is_empty()).into_iter().collect();
        ensure(back == expected, || format!("what was encoded reads back as {back:?}"))?;
    }
    let whole = lines(std::iter::once(data), MOST);
    ensure(whole.as_ref() == Some(&all_lines(data)), || format!("lines: {whole:?}"))?;
    let cut = lines(pieces(data), MOST);
    ensure(cut == whole, || format!("lines in pieces: {cut:?}, in one {whole:?}"))?;
    let bounded = lines(pieces(data), 8);
    let short = all_lines(data).iter().all(|line| line.len() <= 8);
    ensure(bounded.is_none() || (short && bounded == whole), || format!("bounded lines: {bounded:?}"))
}

/// Pieces of 1 to 7 bytes, as the bytes themselves choose.
fn pieces(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let length = usize::from(rest.first()? % 7) + 1;
        let (piece, left) = rest.split_at(length.min(rest.len()));
        rest = left;
        Some(piece)
    })
}

fn events<'d>(pieces: impl Iterator<Item = &'d [u8]>) -> Vec<Vec<u8>> {
    let (mut decoder, mut all) = (Decoder::new(MOST), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        while let Ok(Some(event)) = decoder.next_event() {
            all.push(event.data.to_vec());
        }
    }
    all
}

/// The HTML standard, section "Interpreting an event stream", as far as data goes. An event without any is none.
fn reference(data: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut buffer, mut line) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data).iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\n' && byte != b'\r' {
            line.push(byte);
            continue;
        }
        if byte == b'\r' {
            bytes.next_if_eq(&b'\n');
        }
        if line.is_empty() {
            buffer.pop();
            if !buffer.is_empty() {
                all.push(std::mem::take(&mut buffer));
            }
        }
        let (field, value) = split(&line);
        if field == b"data" {
            buffer.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            buffer.push(b'\n');
        }
        line.clear();
    }
    all
}

/// A line's field and value.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b':') {
        Some(colon) => (&line[..colon], &line[colon + 1..]),
        None => (line, &[]),
    }
}

/// The lines that have an end.
fn all_lines(data: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> =
        data.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec()).collect();
    lines.pop();
    lines
}

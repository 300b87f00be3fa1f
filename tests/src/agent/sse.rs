//! Reading server-sent events.
//!
//! Owns [`Parser`]: bytes in, the data of finished events out (WHATWG HTML, "Server-sent events"). Pure.
//! Never: gives a half event.

/// What is left of an unfinished event.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    data: Vec<String>,
}

impl Parser {
    /// Takes bytes as they come; gives the data of every event that they finish.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end_matches('\r').to_owned();
            events.extend(self.take(&line));
        }
        events
    }

    fn take(&mut self, line: &str) -> Option<String> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data).join("\n");
            return (!data.is_empty()).then_some(data);
        }
        if let Some(data) = line.strip_prefix("data:") {
            self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Parser;

    #[test]
    fn events_come_whole_however_the_bytes_are_cut() {
        let stream =
            b": alive\n\nid: 1\r\ndata: {\"a\":\r\ndata:1}\r\n\r\ndata:\n\nevent: message\ndata: x\n\ndata: half";
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let events: Vec<String> = stream.chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(events, ["{\"a\":\n1}", "x"], "cut by {size}");
        }
    }
}

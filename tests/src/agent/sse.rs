//! Decodes server-sent events (WHATWG HTML, "Server-sent events") from bytes that arrive in any pieces.

/// One event: its data, which may be empty, and its id if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) data: String,
    pub(super) id: Option<String>,
}

/// The part of an event that has arrived so far.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    data: Vec<String>,
    id: Option<String>,
}

impl Parser {
    /// Takes the next bytes and returns every event that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
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

    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let (data, id) = (std::mem::take(&mut self.data).join("\n"), self.id.take());
            return (!data.is_empty() || id.is_some()).then_some(Event { data, id });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.data.push(value.to_owned()),
            "id" => self.id = Some(value.to_owned()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Parser};

    fn event(data: &str, id: Option<&str>) -> Event {
        Event { data: data.to_owned(), id: id.map(str::to_owned) }
    }

    #[test]
    fn events_are_complete_wherever_the_bytes_are_split() {
        let stream = b": alive\n\nid: 1\r\ndata: {\"a\":\r\ndata:1}\r\n\r\ndata:\n\nid: 2\ndata: \n\nevent: message\n\
                       data: x\n\ndata: half";
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let events: Vec<Event> = stream.chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(
                events,
                [event("{\"a\":\n1}", Some("1")), event("", Some("2")), event("x", None)],
                "split into {size} bytes"
            );
        }
    }
}

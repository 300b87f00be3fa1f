//! JSON messages on a stream that has one message on each line, as MCP over stdio has.

use bytes::Bytes;

/// Returns the message on one line. A line break in JSON can only stand between two tokens (RFC 8259, sections 2 and 7),
/// where a space means the same.
#[must_use]
pub fn one_line(message: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &message).is_none() {
        return message;
    }
    message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(one_line(Bytes::from("{\n  \"a\":\r\n \"\\n\"}")), "{   \"a\":   \"\\n\"}");
        assert_eq!(one_line(Bytes::from_static(b"{}")), "{}");
    }
}

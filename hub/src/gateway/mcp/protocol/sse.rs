//! Writes server-sent events, as the gateway streams them to clients. The decoder is [`linchpin_shared::sse`].

use bytes::{Bytes, BytesMut};
pub(crate) use linchpin_shared::sse::Decoder;
use std::time::Duration;

/// A comment that keeps a stream's connection from being taken for dead.
pub(crate) const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// How often [`KEEP_ALIVE`] is sent: common proxies and clients give up after 30 to 60 s of silence.
pub(crate) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// After this a client whose stream broke comes back.
const RETRY_MS: u32 = 1000;

/// The event by which a client learns an id, and when to come back, before anything was said.
pub(crate) fn priming(id: &str) -> Bytes {
    Bytes::from(format!("id: {id}\nretry: {RETRY_MS}\ndata: \n\n"))
}

/// `message` as an event with this id.
pub(crate) fn event(id: &str, message: &str) -> Bytes {
    with_id(id, &encode(message))
}

/// An event that has no id yet, with this one.
pub(crate) fn with_id(id: &str, event: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(event.len() + id.len() + 5);
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b"\n");
    out.extend_from_slice(event);
    out.freeze()
}

/// `message` as an event.
pub(crate) fn encode(message: &str) -> Bytes {
    let mut out = String::with_capacity(message.len() + 24);
    out.push_str("event: message\n");
    for line in message.split(['\n', '\r']) {
        out.push_str("data: ");
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(stream: &[u8], cuts: &[usize]) -> Vec<String> {
        let (mut decoder, mut out, mut done) = (Decoder::new(1 << 20), Vec::new(), 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        cuts.sort_unstable();
        for cut in cuts.into_iter().chain([stream.len()]) {
            decoder.push(&stream[done..cut]);
            done = cut;
            while let Some(event) = decoder.next_event().unwrap() {
                out.push(String::from_utf8(event.data.to_vec()).unwrap());
            }
        }
        out
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back_however_it_is_cut(
            messages in prop::collection::vec("[^\r\n]{1,20}", 0..6),
            ends in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| encode(message)).collect();
            let stream = String::from_utf8(stream).unwrap().replace('\n', ends);
            prop_assert_eq!(decode(stream.as_bytes(), &cuts), messages);
        }
    }
}

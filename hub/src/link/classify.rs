//! From errors to kinds.
//!
//! Owns the one place where errors of the system, of `h2` and of `hyper` become a [`Kind`]. It walks the source chain
//! and asks each error what it is. Where two errors of a chain have something to say, the outermost that is sure wins.
//! Invariant: the cause of a lost connection is read from the connection's own future; what a request sees is vaguer.
//! Never: looks at the text of an error.

use linchpin_shared::failure::{Failure, Kind, Phase};
use std::error::Error;
use std::io;

/// The failure behind an error that ended a dial, a hello or a connection.
pub(super) fn failure(error: &(dyn Error + 'static), phase: Phase) -> Failure {
    let kind = chain(error).find_map(|link| kind_of(link, phase)).unwrap_or(Kind::Closed);
    Failure::new(kind, phase).caused_by(error)
}

/// The failure of one request, and whether the peer surely did nothing with it.
pub(super) fn request_failure(error: &(dyn Error + 'static)) -> (Failure, bool) {
    (failure(error, Phase::Request), chain(error).filter_map(|link| link.downcast_ref()).any(surely_not_processed))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn kind_of(error: &(dyn Error + 'static), phase: Phase) -> Option<Kind> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.kind);
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // The only timer of a client connection is the one of its PINGs.
        return error.is_timeout().then_some(Kind::PingTimeout);
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return h2_kind(error, phase);
    }
    error.downcast_ref::<io::Error>().map(|error| io_kind(error, phase))
}

fn h2_kind(error: &h2::Error, phase: Phase) -> Option<Kind> {
    if let Some(error) = error.get_io() {
        return Some(io_kind(error, phase));
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM | h2::Reason::ENHANCE_YOUR_CALM) => Some(Kind::Overloaded),
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => Some(Kind::Drained),
        Some(_) if error.is_reset() => Some(Kind::StreamReset),
        Some(_) => Some(Kind::Protocol),
        None => None,
    }
}

/// The kind of an error of the system. Those that are our own shortage are not the peer's fault.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
fn io_kind(error: &io::Error, phase: Phase) -> Kind {
    use io::ErrorKind as Is;
    match error.kind() {
        Is::ConnectionRefused => Kind::Refused,
        Is::ConnectionReset => Kind::Reset,
        Is::TimedOut if phase == Phase::Dial => Kind::ConnectTimeout,
        Is::TimedOut => Kind::IoTimeout,
        Is::HostUnreachable | Is::NetworkUnreachable | Is::NetworkDown | Is::AddrNotAvailable => Kind::Unreachable,
        Is::BrokenPipe | Is::ConnectionAborted | Is::NotConnected | Is::UnexpectedEof | Is::WriteZero => Kind::Closed,
        Is::InvalidData => Kind::Protocol,
        Is::OutOfMemory | Is::PermissionDenied => Kind::Cancelled,
        // No files, no buffers: these errors of the system have no kind of their own. The shortage is ours.
        _ if phase == Phase::Dial => Kind::Cancelled,
        _ => Kind::Closed,
    }
}

/// RFC 9113, sections 6.8 and 8.7: a refused stream, and a stream above the last one of a GOAWAY, were not processed.
/// `h2` fails a stream with a peer's GOAWAY only in the latter case.
fn surely_not_processed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(code: rustix::io::Errno, phase: Phase) -> Kind {
        failure(&io::Error::from(code), phase).kind
    }

    #[test]
    fn errors_of_the_system() {
        use rustix::io::Errno;
        assert_eq!(errno(Errno::CONNREFUSED, Phase::Dial), Kind::Refused);
        assert_eq!(errno(Errno::TIMEDOUT, Phase::Dial), Kind::ConnectTimeout);
        assert_eq!(errno(Errno::TIMEDOUT, Phase::Serve), Kind::IoTimeout);
        assert_eq!(errno(Errno::CONNRESET, Phase::Serve), Kind::Reset);
        assert_eq!(errno(Errno::PIPE, Phase::Serve), Kind::Closed);
        assert_eq!(errno(Errno::NETUNREACH, Phase::Dial), Kind::Unreachable);
        assert_eq!(errno(Errno::ADDRNOTAVAIL, Phase::Dial), Kind::Unreachable);
    }

    #[test]
    fn our_own_shortage_is_not_the_peers_fault() {
        for code in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOBUFS] {
            assert!(!errno(code, Phase::Dial).counts_against_peer(), "{code}");
        }
    }

    #[test]
    fn reasons_of_h2() {
        let kind = |reason: h2::Reason| failure(&h2::Error::from(reason), Phase::Hello).kind;
        assert_eq!(kind(h2::Reason::FRAME_SIZE_ERROR), Kind::Protocol);
        assert_eq!(kind(h2::Reason::ENHANCE_YOUR_CALM), Kind::Overloaded);
    }

    #[test]
    fn the_texts_of_the_whole_chain_are_kept() {
        let error = io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(h2::Reason::CANCEL));
        let failure = failure(&error, Phase::Serve);
        assert_eq!((failure.kind, failure.causes.is_empty()), (Kind::Reset, false));
    }
}

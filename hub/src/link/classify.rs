//! Classifies errors of the system, of `h2` and of `hyper`.
//!
//! This is the one place where such errors become a [`FailureKind`]. It walks the source chain and takes the outermost
//! error whose kind is certain. It does not look at the text of an error. The cause of a lost connection is read from
//! the future of the connection, because a request on it observes less.

use super::failure::{Failure, FailureKind, FailurePhase};
use std::error::Error;
use std::io;

/// Classifies an error that ended a dial, a hello or a connection.
pub(super) fn failure(error: &(dyn Error + 'static), phase: FailurePhase) -> Failure {
    let kind = chain(error).find_map(|link| kind_of(link, phase)).unwrap_or(FailureKind::Closed);
    Failure::new(kind, phase).caused_by(error)
}

/// Classifies an error that ended one request, and tells whether the peer certainly did not process the request.
pub(super) fn request_failure(error: &(dyn Error + 'static)) -> (Failure, bool) {
    let not_processed = chain(error).filter_map(|link| link.downcast_ref()).any(certainly_not_processed);
    (failure(error, FailurePhase::Request), not_processed)
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn kind_of(error: &(dyn Error + 'static), phase: FailurePhase) -> Option<FailureKind> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.kind);
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // The only timer of a client connection is the one of its PINGs.
        return error.is_timeout().then_some(FailureKind::PingTimeout);
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return h2_kind(error, phase);
    }
    error.downcast_ref::<io::Error>().map(|error| io_kind(error, phase))
}

fn h2_kind(error: &h2::Error, phase: FailurePhase) -> Option<FailureKind> {
    if let Some(error) = error.get_io() {
        return Some(io_kind(error, phase));
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM | h2::Reason::ENHANCE_YOUR_CALM) => Some(FailureKind::Overloaded),
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => Some(FailureKind::Drained),
        Some(_) if error.is_reset() => Some(FailureKind::StreamReset),
        Some(_) => Some(FailureKind::Protocol),
        None => None,
    }
}

/// The kind of an error of the system. A shortage of the hub's own resources is not a failure of the peer.
#[expect(clippy::wildcard_enum_match_arm, reason = "an enum of the standard library that may grow")]
fn io_kind(error: &io::Error, phase: FailurePhase) -> FailureKind {
    use io::ErrorKind as Is;
    match error.kind() {
        Is::ConnectionRefused => FailureKind::Refused,
        Is::ConnectionReset => FailureKind::Reset,
        Is::TimedOut if phase == FailurePhase::Dial => FailureKind::ConnectTimeout,
        Is::TimedOut => FailureKind::IoTimeout,
        Is::HostUnreachable | Is::NetworkUnreachable | Is::NetworkDown | Is::AddrNotAvailable => {
            FailureKind::Unreachable
        }
        Is::BrokenPipe | Is::ConnectionAborted | Is::NotConnected | Is::UnexpectedEof | Is::WriteZero => {
            FailureKind::Closed
        }
        Is::InvalidData => FailureKind::Protocol,
        Is::OutOfMemory | Is::PermissionDenied => FailureKind::Cancelled,
        // The errors of a hub without free descriptors or buffers have no stable `ErrorKind`.
        _ if phase == FailurePhase::Dial => FailureKind::Cancelled,
        _ => FailureKind::Closed,
    }
}

/// RFC 9113, sections 6.8 and 8.7: a refused stream, and a stream above the last one of a GOAWAY, were not processed.
/// `h2` fails a stream with a peer's GOAWAY only in the latter case.
fn certainly_not_processed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(code: rustix::io::Errno, phase: FailurePhase) -> FailureKind {
        failure(&io::Error::from(code), phase).kind
    }

    #[test]
    fn errors_of_the_system() {
        use rustix::io::Errno;
        assert_eq!(errno(Errno::CONNREFUSED, FailurePhase::Dial), FailureKind::Refused);
        assert_eq!(errno(Errno::TIMEDOUT, FailurePhase::Dial), FailureKind::ConnectTimeout);
        assert_eq!(errno(Errno::TIMEDOUT, FailurePhase::Serve), FailureKind::IoTimeout);
        assert_eq!(errno(Errno::CONNRESET, FailurePhase::Serve), FailureKind::Reset);
        assert_eq!(errno(Errno::PIPE, FailurePhase::Serve), FailureKind::Closed);
        assert_eq!(errno(Errno::NETUNREACH, FailurePhase::Dial), FailureKind::Unreachable);
        assert_eq!(errno(Errno::ADDRNOTAVAIL, FailurePhase::Dial), FailureKind::Unreachable);
    }

    #[test]
    fn a_shortage_of_the_hub_is_not_a_failure_of_the_peer() {
        for code in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOBUFS] {
            assert!(!errno(code, FailurePhase::Dial).counts_against_peer(), "{code}");
        }
    }

    #[test]
    fn reasons_of_h2() {
        let kind = |reason: h2::Reason| failure(&h2::Error::from(reason), FailurePhase::Hello).kind;
        assert_eq!(kind(h2::Reason::FRAME_SIZE_ERROR), FailureKind::Protocol);
        assert_eq!(kind(h2::Reason::ENHANCE_YOUR_CALM), FailureKind::Overloaded);
    }

    #[test]
    fn the_texts_of_the_whole_source_chain_are_kept() {
        let error = io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(h2::Reason::CANCEL));
        let failure = failure(&error, FailurePhase::Serve);
        assert_eq!((failure.kind, failure.causes.is_empty()), (FailureKind::Reset, false));
    }
}

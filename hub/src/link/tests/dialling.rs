//! Faults before a connection is verified.

use super::peer::{Peer, record_at};
use super::rig::{LinkRig, PATIENCE, becomes, call, fails, quick, reaches};
use crate::link::failure::{FailureClass, FailureKind, FailurePhase};
use crate::link::{BreakerStatus, LinkState, LinkStatus, SendError};
use linchpin_shared::protocol::hello;
use linchpin_shared::registry::record::Record;
use linchpin_shared::settings::LinkSettings;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// Asserts that no connection was counted, because the failure came before the hello.
fn never_connected(status: &LinkStatus) {
    assert_eq!((status.connections, status.connection.is_some()), (0, false), "{status:?}");
}

/// Starts a listener that passes each connection to `treat`. Returns its address and the number of connections.
async fn listener<F, T>(treat: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> T + Send + 'static,
    T: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            treat(stream).await;
        }
    });
    (address, accepted)
}

/// Waits for the first failure of a link to this address.
async fn first_failure(address: SocketAddr) -> (LinkRig, Arc<LinkStatus>) {
    let slow = LinkSettings { backoff_min: Duration::from_secs(5), ..quick() };
    let rig = LinkRig::new(&slow);
    let handle = rig.link(&record_at(address, "shop")).await;
    let status = becomes(&handle, "failed", |status| status.last_failure.is_some()).await;
    never_connected(&status);
    assert_eq!(status.state, LinkState::Retrying);
    assert!(status.next_try.is_some());
    assert_eq!(rig.rescans(), 1);
    (rig, status)
}

#[tokio::test]
async fn refused_until_somebody_listens() {
    // A socket that is bound and does not listen keeps the port from everyone else and refuses.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let record = record_at(socket.local_addr().unwrap(), "shop");
    let rig = LinkRig::new(&LinkSettings { breaker_failures: 100, ..quick() });
    let handle = rig.link(&record).await;
    let status = becomes(&handle, "tried three times", |status| status.attempts >= 3).await;
    never_connected(&status);
    let failure = status.last_failure.clone().unwrap();
    assert_eq!(
        (failure.kind, failure.phase, failure.class()),
        (FailureKind::Refused, FailurePhase::Dial, FailureClass::Backoff)
    );
    assert!(matches!(call(&handle, "/echo", "x").await, Err(SendError::NotConnected { .. })));

    let peer = Peer::serve(socket.listen(16).unwrap(), record);
    handle.ready(PATIENCE).await.unwrap();
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn the_breaker_opens_after_failed_dials_and_a_hello_closes_it() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let record = record_at(socket.local_addr().unwrap(), "shop");
    let rig = LinkRig::new(&quick());
    let handle = rig.link(&record).await;
    let status = reaches(&handle, LinkState::Tripped).await;
    assert!(matches!(status.breaker, BreakerStatus::Open { .. }));
    let dials = status.attempts;
    becomes(&handle, "dialling on", |status| status.attempts > dials).await;

    let peer = Peer::serve(socket.listen(16).unwrap(), record);
    let began = Instant::now();
    let status = reaches(&handle, LinkState::Active).await;
    assert_eq!(status.breaker, BreakerStatus::Closed { failures: 0 });
    assert!(began.elapsed() < Duration::from_secs(8), "long before the breaker's own ten seconds");
    assert_eq!(peer.connections(), 1, "probed on the connection that it keeps");
}

#[tokio::test]
async fn a_peer_that_accepts_and_closes_causes_no_hot_loop() {
    let (address, accepted) = listener(|stream| async { drop(stream) }).await;
    let rig = LinkRig::new(&LinkSettings { backoff_min: Duration::from_millis(20), ..quick() });
    let handle = rig.link(&record_at(address, "shop")).await;
    let status = becomes(&handle, "tried four times", |status| status.attempts >= 4).await;
    never_connected(&status);
    let failure = status.last_failure.clone().unwrap();
    assert!(matches!(failure.kind, FailureKind::Reset | FailureKind::Closed), "{failure}");
    assert_eq!((failure.phase, failure.class()), (FailurePhase::Hello, FailureClass::Backoff));
    // Attempts are counted when they have failed, and the next one has its backoff still before it.
    assert!(accepted.load(Ordering::SeqCst) <= 5);
}

#[tokio::test]
async fn an_http1_server_is_another_protocol() {
    let (address, _) = listener(|mut stream| async move {
        let mut preface = [0; 24];
        drop(stream.read_exact(&mut preface).await);
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await);
    })
    .await;
    let (_rig, status) = first_failure(address).await;
    let failure = status.last_failure.clone().unwrap();
    assert_eq!((failure.kind, failure.class()), (FailureKind::Protocol, FailureClass::Rediscover), "{failure}");
}

#[tokio::test]
async fn a_hung_peer_is_found_by_the_hello() {
    // The kernel accepts for it; nobody ever answers.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = LinkRig::new(&LinkSettings { hello_timeout: Duration::from_secs(2), ..quick() });
    let handle = rig.link(&record_at(hung.local_addr().unwrap(), "shop")).await;
    reaches(&handle, LinkState::Connecting).await;
    let history = timeout(Duration::from_secs(1), handle.transitions()).await.expect("served while dialling");
    assert_eq!(history.last().unwrap().to, LinkState::Connecting);
    let status = fails(&handle, FailureKind::HelloTimeout).await;
    never_connected(&status);
    let failure = status.last_failure.clone().unwrap();
    assert_eq!((failure.phase, failure.class()), (FailurePhase::Hello, FailureClass::Backoff));
    assert!((2_000..4_000).contains(&failure.after_ms), "{} ms", failure.after_ms);
}

/// Starts a peer whose record in the registry differs from its own, and waits for the failure.
async fn mistaken(change: impl FnOnce(&mut Record)) -> (Peer, Arc<LinkStatus>) {
    let peer = Peer::start("shop").await;
    let mut record = peer.record.clone();
    change(&mut record);
    let rig = LinkRig::new(&LinkSettings { backoff_min: Duration::from_secs(5), ..quick() });
    let handle = rig.link(&record).await;
    let status = becomes(&handle, "failed", |status| status.last_failure.is_some()).await;
    (peer, status)
}

/// Fault 63: an instance that claims to be another one.
#[tokio::test]
async fn a_peer_with_another_identity_learns_nothing() {
    let wrong_secret = mistaken(|record| record.secret = hello::random().unwrap()).await;
    let wrong_generation = mistaken(|record| record.generation = Uuid::now_v7()).await;
    let wrong_id = mistaken(|record| record.id = Uuid::now_v7()).await;
    for ((peer, status), word) in [(wrong_secret, "secret"), (wrong_generation, "generation"), (wrong_id, "answers at")]
    {
        never_connected(&status);
        let failure = status.last_failure.clone().unwrap();
        assert_eq!(
            (failure.kind, failure.class()),
            (FailureKind::WrongIdentity, FailureClass::Rediscover),
            "{failure}"
        );
        assert!(failure.to_string().contains(word), "{failure}");
        assert_eq!(peer.counts.proofs.load(Ordering::SeqCst), 0, "our proof was sent to a stranger");
        assert_eq!(peer.counts.requests.load(Ordering::SeqCst), 1, "nothing but the hello");
    }
}

/// Fault 44: an instance that listens on `::1` only.
#[tokio::test]
async fn an_instance_that_listens_on_ipv6_only_is_connected_to() {
    let listener = TcpListener::bind("[::1]:0").await.expect("this machine has ::1");
    let record = record_at(listener.local_addr().unwrap(), "shop");
    let (peer, rig) = (Peer::serve(listener, record), LinkRig::new(&quick()));
    let handle = rig.link(&peer.record).await;
    reaches(&handle, LinkState::Active).await;
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
}

#[tokio::test]
async fn a_busy_peer_gets_the_pause_that_it_asks_for() {
    let peer = Peer::start("busy").await;
    let rig = LinkRig::new(&quick());
    let handle = rig.link(&peer.record).await;
    let status = fails(&handle, FailureKind::Overloaded).await;
    never_connected(&status);
    assert_eq!(status.last_failure.clone().unwrap().retry_after_ms, Some(2000));
    let wait = status.next_try.unwrap().duration_since(status.since);
    assert!(wait.as_millis() > 1500, "{wait:?}, and not the 5 ms of these settings");
}

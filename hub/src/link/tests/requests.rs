//! Requests on a verified connection, and callers that go away.

use super::peer::{Peer, record_at};
use super::rig::{LinkRig, PATIENCE, call, connected, counts, quick, reaches, request};
use crate::link::failure::FailureKind;
use crate::link::{LinkState, SendError};
use linchpin_shared::problem::Code;
use linchpin_shared::process::Identity;
use linchpin_shared::settings::LinkSettings;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn many_requests_share_one_connection() {
    let (peer, rig, handle) = connected(&quick()).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let handle = handle.clone();
        callers.spawn(async move {
            for _ in 0..50 {
                assert_eq!(call(&handle, "/echo", "hello").await.unwrap(), "hello");
            }
        });
    }
    callers.join_all().await;
    let status = Arc::clone(&handle.status().borrow());
    assert_eq!((peer.connections(), status.connections, status.state), (1, 1, LinkState::Active));
    let metrics = rig.metrics();
    assert!(metrics.contains("linchpin_link_tcp_connections_total{instance=\"shop\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_caller_that_goes_away_resets_only_its_own_stream() {
    let (peer, _rig, handle) = connected(&LinkSettings { in_flight: 2, ..quick() }).await;
    for _ in 0..20 {
        let caller = handle.clone();
        let waiting = tokio::spawn(async move { caller.request(request("/hang", "")).await.map(drop) });
        counts("hanging", &peer.counts.hanging, |count| count == 1).await;
        waiting.abort();
        counts("hanging", &peer.counts.hanging, |count| count == 0).await;
    }
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    assert_eq!((peer.connections(), handle.status().borrow().connections), (1, 1));
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_own_request() {
    let (peer, _rig, handle) = connected(&quick()).await;
    let error = call(&handle, "/panic", "").await.unwrap_err();
    let SendError::Interrupted(failure) = &error else { panic!("{error}") };
    assert_eq!(failure.kind, FailureKind::StreamReset);
    assert!(!error.not_executed(), "the handler had begun");
    assert_eq!(error.problem("shop").code, Code::CallInterrupted);
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    assert_eq!((peer.connections(), handle.status().borrow().state), (1, LinkState::Active));
}

#[tokio::test]
async fn an_ended_process_is_sent_nothing_on_its_open_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut record = record_at(listener.local_addr().unwrap(), "shop");
    let mut process = tokio::process::Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    record.process = Identity::of(process.id().unwrap()).unwrap();
    let (peer, rig) = (Peer::serve(listener, record), LinkRig::new(&quick()));
    let handle = rig.link(&peer.record).await;
    reaches(&handle, LinkState::Active).await;
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    process.kill().await.unwrap();
    let error = call(&handle, "/echo", "x").await.unwrap_err();
    assert!(matches!(&error, SendError::NotSent(failure) if failure.kind == FailureKind::ProcessGone), "{error}");
    assert!(error.not_executed());
    assert_eq!((peer.connections(), handle.status().borrow().state), (1, LinkState::Active));
}

#[tokio::test]
async fn a_refused_stream_was_not_executed() {
    let (_peer, _rig, handle) = connected(&quick()).await;
    let error = call(&handle, "/refuse", "").await.unwrap_err();
    assert!(matches!(&error, SendError::NotSent(failure) if failure.kind == FailureKind::Overloaded), "{error}");
    assert!(error.not_executed());
}

#[tokio::test]
async fn requests_in_flight_are_bounded_until_their_bodies_end() {
    let (peer, _rig, handle) = connected(&LinkSettings { in_flight: 2, ..quick() }).await;
    let first = handle.request(request("/echo", "1")).await.unwrap();
    let second = handle.request(request("/echo", "2")).await.unwrap();
    let before = peer.counts.requests.load(Ordering::SeqCst);
    let refused = call(&handle, "/echo", "3").await.unwrap_err();
    assert!(matches!(refused, SendError::Overloaded { .. }) && refused.not_executed(), "{refused}");
    assert_eq!(peer.counts.requests.load(Ordering::SeqCst), before, "not sent");
    drop(first);
    assert_eq!(call(&handle, "/echo", "3").await.unwrap(), "3");
    drop(second);
}

#[tokio::test]
async fn a_stream_of_the_hub_uses_no_capacity_of_callers() {
    let (_peer, _rig, handle) = connected(&LinkSettings { in_flight: 1, in_flight_total: 1, ..quick() }).await;
    let listening = handle.listen(request("/endless", "")).await.unwrap();
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    let held = handle.request(request("/echo", "1")).await.unwrap();
    drop(handle.listen(request("/endless", "")).await.unwrap());
    drop((listening, held));
}

#[tokio::test]
async fn callers_that_do_not_read_delay_only_themselves() {
    let (_peer, _rig, handle) = connected(&LinkSettings { in_flight: 64, ..quick() }).await;
    let mut unread = Vec::new();
    for _ in 0..63 {
        unread.push(handle.request(request("/endless", "")).await.unwrap());
    }
    for _ in 0..10 {
        let echo = tokio::time::timeout(PATIENCE, call(&handle, "/echo", "x")).await;
        assert_eq!(echo.expect("not held up").unwrap(), "x");
    }
    assert_eq!(handle.status().borrow().connections, 1);
}

#[tokio::test]
async fn the_limit_over_all_links_holds() {
    let (_peer, _rig, handle) = connected(&LinkSettings { in_flight_total: 1, ..quick() }).await;
    let held = handle.request(request("/echo", "1")).await.unwrap();
    assert!(matches!(call(&handle, "/echo", "2").await, Err(SendError::Overloaded { .. })));
    drop(held);
    assert_eq!(call(&handle, "/echo", "2").await.unwrap(), "2");
}

#[tokio::test]
async fn a_request_after_the_end_of_the_hub_has_a_next_step() {
    let (_peer, rig, handle) = connected(&quick()).await;
    drop(rig);
    let mut status = handle.status();
    while status.changed().await.is_ok() {}
    let error = call(&handle, "/echo", "x").await.unwrap_err();
    let problem = error.problem("shop");
    assert!(problem.detail.contains("shop") && !problem.next_steps.is_empty(), "{problem}");
}

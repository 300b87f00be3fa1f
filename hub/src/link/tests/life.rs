//! The end of a verified connection, and instances that appear and disappear.

use super::peer::{Peer, PeerMode};
use super::rig::{LinkRig, PATIENCE, becomes, call, connected, counts, fails, quick, reaches, request};
use crate::link::failure::{FailureClass, FailureKind, FailurePhase};
use crate::link::{BreakerStatus, LinkState, SendError};
use linchpin_shared::registry::Owner;
use linchpin_shared::settings::LinkSettings;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Breaks a connection with a request in flight, and returns the kind of failure that the link reports.
async fn broken(way: PeerMode) -> FailureKind {
    let (peer, rig, handle) = connected(&LinkSettings { backoff_min: Duration::from_secs(5), ..quick() }).await;
    let (caller, hanging) = (handle.clone(), Arc::clone(&peer.counts));
    let in_flight = tokio::spawn(async move { caller.request(request("/hang", "")).await.map(drop) });
    counts("hanging", &hanging.hanging, |count| count == 1).await;
    let began = Instant::now();
    peer.go(way);
    let interrupted = timeout(PATIENCE, in_flight).await.expect("the caller hears of it").unwrap().unwrap_err();
    assert!(matches!(interrupted, SendError::Interrupted(_)), "{interrupted}");
    assert!(!interrupted.not_executed());
    let status = becomes(&handle, "connected again", |status| status.connections == 2).await;
    assert!(began.elapsed() < Duration::from_secs(2), "at once, without the backoff of five seconds");
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    assert_eq!((peer.connections(), rig.rescans()), (2, 1));
    let failure = status.last_failure.clone().unwrap();
    assert_eq!((failure.phase, failure.class()), (FailurePhase::Serve, FailureClass::RetryNow));
    failure.kind
}

#[tokio::test]
async fn a_reset_in_mid_life_is_dialled_again_at_once() {
    assert_eq!(broken(PeerMode::Reset).await, FailureKind::Reset);
}

#[tokio::test]
async fn a_close_in_mid_life_is_dialled_again_at_once() {
    assert_eq!(broken(PeerMode::Close).await, FailureKind::Closed);
}

#[tokio::test]
async fn a_storm_of_lost_links_is_dialled_at_the_rate_of_the_limiter() {
    const LINKS: usize = 40;
    let rig = LinkRig::new(&quick());
    let mut peers = Vec::new();
    for number in 0..LINKS {
        peers.push(Peer::start(&format!("shop-{number}")).await);
    }
    let began = Instant::now();
    rig.show(&peers.iter().map(|peer| (&peer.record, Owner::Alive)).collect::<Vec<_>>());
    let mut handles = rig.links.watch();
    let all = Arc::clone(&timeout(PATIENCE, handles.wait_for(|list| list.len() == LINKS)).await.unwrap().unwrap());
    for handle in all.iter() {
        reaches(handle, LinkState::Active).await;
    }
    let first = began.elapsed();

    let lost = Instant::now();
    peers.iter().for_each(|peer| peer.go(PeerMode::Reset));
    for handle in all.iter() {
        becomes(handle, "connected again", |status| status.connections == 2).await;
    }
    // 40 dials at 50 a second, of which 11 may begin at once.
    assert!(lost.elapsed() >= Duration::from_millis(29 * 20), "{:?}", lost.elapsed());
    assert!(first < lost.elapsed(), "first dials do not wait: {first:?}");
    assert!(peers.iter().all(|peer| peer.connections() == 2));
}

#[tokio::test]
async fn a_goaway_lets_requests_finish_and_counts_as_no_failure() {
    let (peer, _rig, handle) = connected(&quick()).await;
    let caller = handle.clone();
    let in_flight = tokio::spawn(async move { call(&caller, "/slow", "").await });
    counts("requests", &peer.counts.requests, |count| count >= 4).await;
    peer.go(PeerMode::Goaway);
    peer.set_epoch(0);
    assert_eq!(in_flight.await.unwrap().unwrap(), "slow");
    let status = fails(&handle, FailureKind::Drained).await;
    assert_eq!(status.breaker, BreakerStatus::Closed { failures: 0 });
    becomes(&handle, "connected again", |status| status.connections == 2).await;
}

#[tokio::test]
async fn a_goaway_under_load_executes_each_request_exactly_once() {
    let (peer, _rig, handle) = connected(&quick()).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let handle = handle.clone();
        callers.spawn(async move {
            let mut executed = 0;
            while executed < 200 {
                match call(&handle, "/echo", "x").await {
                    Ok(_) => executed += 1,
                    Err(error) if error.not_executed() => handle.ready(PATIENCE).await.unwrap(),
                    Err(error) => panic!("{error}"),
                }
            }
            executed
        });
    }
    counts("requests", &peer.counts.requests, |count| count > 400).await;
    let own = peer.connections();
    peer.go(PeerMode::Goaway);
    let executed: usize = callers.join_all().await.into_iter().sum();
    assert_eq!((own, executed), (1, 1600));
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_peer_that_hangs_is_found_by_its_pings_while_idle() {
    let pings = (Duration::from_millis(200), Duration::from_millis(400));
    let (peer, _rig, handle) =
        connected(&LinkSettings { ping_interval: pings.0, ping_timeout: pings.1, ..quick() }).await;
    // Several PINGs long nothing may happen.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.status().borrow().connections, 1, "answered PINGs keep it");
    peer.go(PeerMode::Freeze);
    let began = Instant::now();
    let status = fails(&handle, FailureKind::PingTimeout).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(status.last_failure.clone().unwrap().class(), FailureClass::Backoff);
    reaches(&handle, LinkState::Active).await;
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_check_ends_a_dead_connection_before_the_pings_do() {
    let (peer, rig, handle) = connected(&quick()).await;
    rig.links.check_all("a test");
    becomes(&handle, "in doubt", |status| status.state == LinkState::Suspect).await;
    reaches(&handle, LinkState::Active).await;
    assert_eq!(peer.connections(), 1);

    peer.go(PeerMode::Freeze);
    let began = Instant::now();
    handle.check("a test");
    fails(&handle, FailureKind::PingTimeout).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    reaches(&handle, LinkState::Active).await;
}

#[tokio::test]
async fn a_new_generation_is_dialled_at_once_and_keeps_the_handle() {
    let (old, rig, handle) = connected(&LinkSettings { backoff_min: Duration::from_secs(5), ..quick() }).await;
    let caller = handle.clone();
    let in_flight = tokio::spawn(async move { call(&caller, "/slow", "").await });
    counts("requests", &old.counts.requests, |count| count >= 4).await;
    let new = Peer::start("shop").await;
    let began = Instant::now();
    rig.show(&[(&new.record, Owner::Alive)]);
    let status = becomes(&handle, "the new one", |status| {
        status.state == LinkState::Active && status.record.generation == new.record.generation
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!((status.connections, new.connections(), old.connections()), (2, 1, 1));
    assert_eq!(in_flight.await.unwrap().unwrap(), "slow", "what the old one works on may finish");
    assert_eq!(rig.links.watch().borrow().len(), 1);
}

#[tokio::test]
async fn a_missing_record_does_not_end_an_open_connection() {
    let (peer, rig, handle) = connected(&LinkSettings { remember_gone: Duration::ZERO, ..quick() }).await;
    rig.show(&[]);
    reaches(&handle, LinkState::Draining).await;
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    rig.show(&[(&peer.record, Owner::Alive)]);
    reaches(&handle, LinkState::Active).await;
    assert_eq!(peer.connections(), 1);

    rig.show(&[]);
    reaches(&handle, LinkState::Draining).await;
    peer.go(PeerMode::Close);
    let mut handles = rig.links.watch();
    timeout(PATIENCE, handles.wait_for(|list| list.is_empty())).await.expect("forgotten").unwrap();
    assert!(handle.transitions().await.is_empty());
    assert!(matches!(handle.ready(PATIENCE).await, Err(SendError::Gone)));
    assert!(matches!(call(&handle, "/echo", "x").await, Err(SendError::Gone)));

    let handle = rig.link(&peer.record).await;
    reaches(&handle, LinkState::Active).await;
}

#[tokio::test]
async fn a_new_generation_after_a_death_keeps_the_handle() {
    let (old, rig, handle) = connected(&quick()).await;
    drop(timeout(PATIENCE, handle.vitals().wait_for(Option::is_some)).await.expect("vitals").unwrap());
    rig.show(&[(&old.record, Owner::Dead)]);
    let status = reaches(&handle, LinkState::Gone).await;
    assert_eq!(status.last_failure.clone().unwrap().kind, FailureKind::ProcessGone);
    assert!(matches!(call(&handle, "/echo", "x").await, Err(SendError::Gone)));
    drop(timeout(PATIENCE, handle.vitals().wait_for(Option::is_none)).await.expect("no vitals").unwrap());

    let waiting = handle.clone();
    let waiting = tokio::spawn(async move { waiting.ready(PATIENCE).await });
    let new = Peer::start("shop").await;
    rig.show(&[(&new.record, Owner::Alive)]);
    waiting.await.unwrap().unwrap();
    assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
}

#[tokio::test]
async fn a_dead_instance_gets_no_link() {
    let (dead, alive) = (Peer::start("dead").await, Peer::start("alive").await);
    let rig = LinkRig::new(&quick());
    rig.show(&[(&dead.record, Owner::Dead), (&alive.record, Owner::Alive)]);
    let mut handles = rig.links.watch();
    timeout(PATIENCE, handles.wait_for(|list| !list.is_empty())).await.unwrap().unwrap();
    let names: Vec<_> = rig.links.watch().borrow().iter().map(|handle| handle.name().to_owned()).collect();
    assert_eq!(names, ["alive"]);
    assert_eq!(dead.connections(), 0);
}

#[tokio::test]
async fn vitals_are_followed_also_when_their_stream_ends() {
    let (peer, _rig, handle) = connected(&quick()).await;
    let mut vitals = handle.vitals();
    for epoch in [1, 2, 0, 3, 4] {
        peer.set_epoch(epoch);
        if epoch == 0 {
            // Hello, proof, the stream that ends now, and another one.
            counts("requests", &peer.counts.requests, |count| count >= 4).await;
            continue;
        }
        let seen = vitals.wait_for(|vitals| vitals.as_ref().is_some_and(|vitals| vitals.servers[0].epoch == epoch));
        drop(timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("epoch {epoch} is not seen")).unwrap());
    }
    assert_eq!(handle.status().borrow().connections, 1);
}

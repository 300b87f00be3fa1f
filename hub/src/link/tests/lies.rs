//! Instances that violate the protocol (fault 63).

use super::peer::Peer;
use super::rig::{LinkRig, PATIENCE, becomes, call, quick, reaches};
use crate::link::LinkState;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Fault 63: vitals that change all the time are published at the hub's pace and delay nothing.
#[tokio::test]
async fn an_instance_that_floods_its_vitals_is_slowed_down() {
    let (peer, rig) = (Peer::start("flood").await, LinkRig::new(&quick()));
    let handle = rig.link(&peer.record).await;
    reaches(&handle, LinkState::Active).await;
    let mut vitals = handle.vitals();
    drop(timeout(PATIENCE, vitals.wait_for(Option::is_some)).await.expect("vitals").unwrap());
    let began = Instant::now();
    let mut changes = 0;
    while changes < 10 {
        timeout(PATIENCE, vitals.changed()).await.expect("they go on").unwrap();
        changes += 1;
        assert_eq!(call(&handle, "/echo", "x").await.unwrap(), "x");
    }
    assert!(began.elapsed() >= Duration::from_millis(20 * 9), "{changes} in {:?}", began.elapsed());
    assert_eq!(handle.status().borrow().state, LinkState::Active);
}

/// Fault 63: an endless answer to the hello is cut off.
#[tokio::test]
async fn an_endless_hello_is_cut_off() {
    let (peer, rig) = (Peer::start("babbler").await, LinkRig::new(&quick()));
    let handle = rig.link(&peer.record).await;
    let status = becomes(&handle, "failed", |status| status.last_failure.is_some()).await;
    assert_eq!((status.connections, status.connection.is_some()), (0, false));
    let failure = status.last_failure.clone().unwrap();
    assert!(failure.to_string().contains("length limit"), "{failure}");
}

//! Links to real instances in a private registry, found by the real discovery.

use super::rig::{PATIENCE, call, quick, reaches};
use crate::discovery::{Discovery, Times};
use crate::link::{LinkHandle, LinkState, Links, SendError};
use linchpin_instance::Instance;
use linchpin_shared::home::Home;
use linchpin_shared::protocol::path;
use linchpin_shared::registry::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

struct RealLinks {
    home: Home,
    links: Links,
    _cancel: DropGuard,
    _dir: tempfile::TempDir,
}

impl RealLinks {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.prepare().unwrap();
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let times = Times { poll: Duration::from_secs(1), stop: Duration::from_secs(1) };
        let discovery = Discovery::start(Registry::new(&home), times, cancel.clone(), &tasks);
        let links = Links::start(&discovery, &quick(), cancel.clone(), &tasks);
        Self { home, links, _cancel: cancel.drop_guard(), _dir: dir }
    }

    async fn start(&self) -> Instance {
        Instance::builder("shop").home(self.home.clone()).project_dir("/").start().await.unwrap()
    }

    async fn connected(&self) -> LinkHandle {
        let mut handles = self.links.watch();
        drop(timeout(PATIENCE, handles.wait_for(|list| !list.is_empty())).await.expect("it is found").unwrap());
        let handle = self.links.get("shop").unwrap();
        reaches(&handle, LinkState::Active).await;
        handle
    }
}

#[tokio::test]
async fn a_real_instance_is_found_and_reports_its_vitals() {
    let links = RealLinks::new();
    let instance = links.start().await;
    let handle = links.connected().await;
    let mut vitals = handle.vitals();
    let seen = timeout(PATIENCE, vitals.wait_for(Option::is_some)).await.expect("vitals").unwrap().clone();
    assert_eq!(seen.unwrap().generation, instance.record().generation);
    handle.check("a test");
    reaches(&handle, LinkState::Suspect).await;
    reaches(&handle, LinkState::Active).await;
    assert_eq!(handle.status().borrow().connections, 1);
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn a_real_instance_that_starts_again_is_used_at_once() {
    let links = RealLinks::new();
    let first = links.start().await;
    let handle = links.connected().await;
    let old = first.record().generation;
    first.stop().await.unwrap();
    let status = reaches(&handle, LinkState::Gone).await;
    assert!(matches!(call(&handle, path::VITALS, "").await, Err(SendError::Gone)), "{status:?}");

    let second = links.start().await;
    handle.ready(PATIENCE).await.unwrap();
    let status = Arc::clone(&handle.status().borrow());
    assert_ne!(status.record.generation, old);
    assert_eq!(status.connections, 2);
    second.stop().await.unwrap();
}

/// Removes a directory while an instance may be writing into it.
fn remove_whole(dir: &std::path::Path) {
    while let Err(error) = std::fs::remove_dir_all(dir) {
        assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty, "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_is_removed_ends_no_connection() {
    let links = RealLinks::new();
    let instance = links.start().await;
    let handle = links.connected().await;
    remove_whole(&links.home.instances());
    assert!(call(&handle, path::VITALS, "").await.is_ok(), "the connection serves on");
    let again = links.home.instances().join(format!("{}.json", instance.record().id));
    timeout(PATIENCE, async {
        while !again.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the instance registers again");
    reaches(&handle, LinkState::Active).await;
    assert_eq!(handle.status().borrow().connections, 1);
    instance.stop().await.unwrap();
    reaches(&handle, LinkState::Gone).await;
}

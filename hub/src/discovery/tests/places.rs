//! Registry directories that go, come and are something else. Nothing here is found by the poll of [`NEVER`].

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

/// Whoever comes and goes now is heard.
async fn hears(lab: &Lab, discovery: &Discovery, others: &[&str]) {
    let mut all: Vec<&str> = others.iter().copied().chain(["probe"]).collect();
    all.sort_unstable();
    let probe = lab.register("probe").await;
    see(discovery, "the probe", |snapshot| names(snapshot) == all).await;
    probe.unregister().unwrap();
    see(discovery, "the probe gone", |snapshot| names(snapshot) == others).await;
}

/// Fault 23: the home above goes, with the registry in it, and nothing in the registry itself changes.
#[tokio::test]
async fn a_home_that_is_moved_away_is_noticed() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let mut blog = lab.register("blog").await;
    see(&discovery, "blog", |snapshot| names(snapshot) == ["blog"]).await;
    std::fs::rename(lab.home.root(), lab.root.path().join("aside")).unwrap();
    lab.home.prepare().unwrap();
    hears(&lab, &discovery, &["blog"]).await;
    assert!(blog.ensure().unwrap());
    hears(&lab, &discovery, &["blog"]).await;
    lab.end().await;
}

/// Fault 23: moved away and back, and removed while it is empty, which changes no record.
#[tokio::test]
async fn a_registry_that_comes_back_is_heard_again() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let aside = lab.root.path().join("aside");
    for _ in 0..5 {
        std::fs::rename(lab.registry.dir(), &aside).unwrap();
        std::fs::rename(&aside, lab.registry.dir()).unwrap();
        hears(&lab, &discovery, &[]).await;
        std::fs::remove_dir_all(lab.registry.dir()).unwrap();
        lab.home.prepare().unwrap();
        hears(&lab, &discovery, &[]).await;
    }
    lab.end().await;
}

/// Faults 23, 66: a link in the place of the registry, and a registry that others may enter, are told and not read.
#[tokio::test]
async fn what_is_not_our_private_directory_is_told_and_not_read() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let mut shop = lab.register("shop").await;
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    let all = recorded(&discovery);
    let mut senses = discovery.senses.clone();
    let mut told = async |what: &str, holds: &dyn Fn(Option<&str>) -> bool| {
        let holds = |senses: &Senses| holds(senses.blind.as_ref().map(|problem| problem.detail.as_str()));
        let seen = tokio::time::timeout(LONG, senses.wait_for(holds)).await.map(|seen| drop(seen.unwrap()));
        seen.unwrap_or_else(|_| panic!("never told: {what}"));
    };

    let elsewhere = Lab::new();
    let _planted = elsewhere.register("planted").await;
    let aside = lab.root.path().join("aside");
    std::fs::rename(lab.registry.dir(), &aside).unwrap();
    symlink(elsewhere.registry.dir(), lab.registry.dir()).unwrap();
    told("the link", &|why| why.is_some_and(|why| why.contains("symbolic link"))).await;
    assert!(shop.ensure().is_err(), "nothing is written through a link");
    std::fs::remove_file(lab.registry.dir()).unwrap();
    assert!(shop.ensure().unwrap());
    told("its end", &|why| why.is_none()).await;
    hears(&lab, &discovery, &["shop"]).await;

    let mode = |mode| std::fs::set_permissions(lab.registry.dir(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    discovery.nudge();
    told("the mode", &|why| why.is_some_and(|why| why.contains("open to other users"))).await;
    mode(0o700);
    discovery.nudge();
    told("its end", &|why| why.is_none()).await;
    for snapshot in all.await {
        assert!(names(&snapshot).contains(&"shop") && !names(&snapshot).contains(&"planted"), "{snapshot:#?}");
    }
    lab.end().await;
}

/// Fault 24: more happens than the kernel remembers, and none of what it remembers matters.
#[tokio::test]
async fn a_record_whose_event_was_lost_is_found() {
    let lab = Lab::new();
    let most: usize =
        std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let discovery = lab.hearing().await;
    // This test has one thread: nothing is heard before it waits for the first time.
    for number in 0..=most / 2 {
        let path = lab.registry.dir().join(format!("{number}.tmp"));
        std::fs::write(&path, "").unwrap();
        std::fs::remove_file(path).unwrap();
    }
    let _shop = lab.registry.register(record("shop")).unwrap();
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    lab.end().await;
}

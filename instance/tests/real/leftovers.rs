//! What must be gone before "stopped" is said, and what a killed agent leaves: ended by identity, and nothing else.

use crate::lab::hub::Hub;
use crate::lab::{InstanceLab, fixture, is_alive, signal, until};
use linchpin_shared::process::Identity;
use linchpin_shared::protocol::vitals::ProcessState;
use rustix::process::Signal;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};

/// Killed when dropped.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A process of ours whose name is no text: cut to 15 bytes, any name may end in half a character.
fn unspeakable(lab: &InstanceLab) -> Stranger {
    let path = lab.project().join(std::ffi::OsStr::from_bytes(b"na\xffme"));
    std::fs::copy("/bin/sleep", &path).unwrap();
    Stranger(Command::new(path).arg("1200").env_clear().spawn().unwrap())
}

#[tokio::test]
async fn process_with_an_odd_name_does_not_delay_the_stop() {
    let lab = InstanceLab::new();
    let stranger = unspeakable(&lab);
    let comm = format!("/proc/{}/comm", stranger.0.id());
    until("it has its name", async || std::fs::read(&comm).unwrap().contains(&0xff).then_some(())).await;
    let (agent, _) = lab.run("shop", &[], &["sh", "-c", "setsid sleep 1201 & sleep 1202"]).await;
    lab.sleeps(1201).await;
    agent.stop().await;
    assert!(is_alive(stranger.0.id()));
}

/// Fault 9: its first thread has ended, so it looks dead; another one ignores SIGTERM and holds the port.
#[tokio::test]
async fn process_without_its_main_thread_is_not_gone() {
    let lab = InstanceLab::new().with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "300");
    let (agent, record) = lab.run("shop", &[], &["python3", &fixture("headless.py")]).await;
    let port = until("it listens", async || {
        let log = lab.log("shop");
        log.lines().find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok())
    })
    .await;
    let hub = Hub::connect(&record).await;
    let pid = hub.vitals().await.processes[0].pid.unwrap();
    let stat = format!("/proc/{pid}/stat");
    until("its first thread ended", async || std::fs::read_to_string(&stat).unwrap().contains(") Z ").then_some(()))
        .await;
    assert!(is_alive(pid), "the others go on");
    assert_eq!(hub.vitals().await.processes[0].state, ProcessState::Running);
    agent.stop().await;
    assert!(!is_alive(pid));
    TcpListener::bind(("127.0.0.1", port)).expect("its port is free");
    let log = lab.log("shop");
    assert!(log.contains("stopped on request (signal 9 (SIGKILL))"), "{log}");
}

/// Fault 12: what left on purpose holds the standard output for as long as it likes.
#[tokio::test]
async fn exit_is_seen_while_the_output_is_held_open() {
    let lab = InstanceLab::new();
    let script = "(LINCHPIN_DETACHED=1 setsid sh -c 'echo > left; exec sleep 1203' &); \
                  until [ -e left ]; do sleep 0.01; done; rm left; exit 3";
    let (agent, record) = lab.run("shop", &[], &["sh", "-c", script]).await;
    let hub = Hub::connect(&record).await;
    let vitals = hub.vitals_until("three ends were seen", |vitals| vitals.processes[0].restarts >= 3).await;
    assert_eq!(vitals.processes[0].last_end.as_deref(), Some("exit 3"));
    let holders = lab.sleepers(1203);
    assert!(holders.len() >= 3, "one of each life: {holders:?}");
    agent.stop().await;
    assert!(!lab.sleepers(1203).is_empty(), "they are left alone");
    for pid in lab.sleepers(1203) {
        signal(pid, Signal::KILL);
    }
    until("they are gone", async || lab.is_empty().then_some(())).await;
}

/// Fault 4, from the next life's side: what the killed agent left ends, but not what left on purpose.
#[tokio::test]
async fn next_agent_ends_leftovers_but_not_detached_processes() {
    let lab = InstanceLab::new();
    // As a child that has its parent still, and as one that has none.
    let script = "LINCHPIN_DETACHED=1 setsid sleep 1204 & (LINCHPIN_DETACHED=1 setsid sleep 1205 &); \
                  (setsid sh -c 'sleep 1206 & sleep 1207' &); sleep 1208";
    let (agent, _) = lab.run("shop", &[], &["sh", "-c", script]).await;
    let (mut free, mut left) = (Vec::new(), Vec::new());
    for seconds in [1204, 1205] {
        free.push(lab.sleeps(seconds).await);
    }
    for seconds in [1206, 1207, 1208] {
        left.push(lab.sleeps(seconds).await);
    }
    agent.signal(Signal::KILL);
    agent.ended().await;
    let (next, _) = lab.run("shop", &[], &["sleep", "1209"]).await;
    lab.sleeps(1209).await;
    assert_eq!(left.iter().filter(|pid| is_alive(**pid)).count(), 0);
    next.stop().await;
    assert!(free.iter().all(|pid| is_alive(*pid)));
    for pid in free {
        signal(pid, Signal::KILL);
    }
    until("they are gone", async || lab.is_empty().then_some(())).await;
}

/// The same project and name under another home is another instance, although its id is the same.
#[tokio::test]
async fn live_instance_of_another_home_is_left_alone() {
    let (here, there) = (InstanceLab::new(), InstanceLab::new());
    let other = there.start_in(&here.project(), &["--name", "shop", "--", "sleep", "1210"]);
    let record = there.registered("shop").await;
    let theirs = Identity::of(there.sleeps(1210).await).unwrap();
    let (agent, mine) = here.run("shop", &[], &["sleep", "1211"]).await;
    assert_eq!(mine.id, record.id);
    here.sleeps(1211).await;
    assert!(theirs.is_alive());
    agent.stop().await;
    other.stop().await;
}

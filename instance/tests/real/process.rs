//! Supervised processes: started again, stopped as whole trees, kept in a log.

use crate::lab::hub::Hub;
use crate::lab::{InstanceLab, is_alive, signal, until};
use linchpin_shared::protocol::path;
use linchpin_shared::protocol::vitals::ProcessState;
use linchpin_shared::registry::{Owner, Registry};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn output_is_passed_through_and_logged() {
    let lab = InstanceLab::new();
    let script = "echo out; echo err >&2; printf 'no end'; test \"$LINCHPIN_INSTANCE\" = shop";
    let (status, output) = lab.start(&["--name", "shop", "--", "sh", "-c", script]).ended().await;
    assert!(status.success(), "{output}");
    assert!(output.starts_with("out\nno end") && output.contains("err\n"), "{output}");
    let log = lab.log("shop");
    for line in ["main started, pid", "\nout\n", "\nerr\n", "\nno end\n", "main ended: exit 0\n"] {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    assert!(lab.names().is_empty(), "a command that did its work is unregistered");
}

#[tokio::test]
async fn log_is_rotated_by_size() {
    let lab = InstanceLab::new().with("LINCHPIN_LOG_MAX_BYTES", "20000").with("LINCHPIN_LOG_KEEP", "2");
    let (status, _) = lab.start(&["--name", "shop", "--", "seq", "20000"]).ended().await;
    assert!(status.success());
    let log = lab.home().process_log("shop", "main");
    let files = std::fs::read_dir(log.parent().unwrap()).unwrap().count();
    assert_eq!(files, 3, "one and two kept");
    let last = linchpin_shared::logfile::tail(&log, 2).unwrap();
    assert_eq!(last[0], "20000");
}

#[tokio::test]
async fn crash_restarts_with_growing_delay() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sh", "-c", "echo once; exit 3"]).await;
    let hub = Hub::connect(&record).await;
    let vitals = hub.vitals_until("five starts", |vitals| vitals.processes[0].restarts == 5).await;
    let process = &vitals.processes[0];
    assert_eq!((process.state, process.last_end.as_deref()), (ProcessState::Waiting, Some("exit 3")));
    assert!(process.next_start.unwrap() > process.since, "{process:?}");
    let delays: Vec<u64> =
        lab.log("shop").lines().filter_map(|line| line.split("again in ").nth(1)).map(millis).collect();
    for (attempt, delay) in delays.iter().enumerate() {
        let whole = 20 << attempt;
        assert!((whole / 2..=whole).contains(delay), "{delays:?}");
    }
    agent.stop().await;
}

fn millis(text: &str) -> u64 {
    text.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn stop_ends_the_whole_tree() {
    let lab = InstanceLab::new();
    // In the group, out of the group, and gone on its own with a session of its own.
    let script = "sleep 1001 & setsid sleep 1002 & (setsid sh -c 'sleep 1003 & exec sleep 1004' &) ; sleep 1005";
    let (agent, _) = lab.run("shop", &[], &["sh", "-c", script]).await;
    let mut tree = Vec::new();
    for seconds in 1001..=1005 {
        tree.push(lab.sleeps(seconds).await);
    }
    agent.signal(Signal::TERM);
    // The record is there for as long as anything of the tree is.
    until("it is unregistered", async || lab.names().is_empty().then_some(())).await;
    assert_eq!(tree.iter().filter(|pid| is_alive(**pid)).count(), 0);
    let (status, output) = agent.ended().await;
    assert!(status.success() && output.contains("stopped: SIGTERM"), "{output}");
}

#[tokio::test]
async fn leftovers_of_a_crash_end_before_the_next_start() {
    let lab = InstanceLab::new();
    let script = "setsid sleep 1006 & sleep 1007";
    let (agent, record) = lab.run("shop", &[], &["sh", "-c", script]).await;
    let hub = Hub::connect(&record).await;
    for life in 1..4 {
        lab.sleeps(1006).await;
        lab.sleeps(1007).await;
        let pid =
            hub.vitals_until("it runs", |vitals| vitals.processes[0].pid.is_some()).await.processes[0].pid.unwrap();
        signal(pid, Signal::KILL);
        hub.vitals_until("it runs again", |vitals| {
            vitals.processes[0].restarts == life && vitals.processes[0].state == ProcessState::Running
        })
        .await;
    }
    lab.sleeps(1006).await;
    assert_eq!(lab.sleepers(1006).len(), 1, "one life has one");
    agent.stop().await;
}

#[tokio::test]
async fn process_that_ignores_sigterm_is_killed_at_the_deadline() {
    let lab = InstanceLab::new().with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "300");
    let (agent, _) =
        lab.run("shop", &[], &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1008; done"]).await;
    lab.logged("shop", "ready").await;
    let begun = Instant::now();
    agent.stop().await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "it had its time");
    assert!(lab.log("shop").contains("stopped on request (signal 9 (SIGKILL))"), "{}", lab.log("shop"));
}

#[tokio::test]
async fn second_signal_kills_at_once() {
    let lab = InstanceLab::new().with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "3600000");
    let (agent, record) =
        lab.run("shop", &[], &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1009; done"]).await;
    lab.logged("shop", "ready").await;
    let hub = Hub::connect(&record).await;
    agent.signal(Signal::INT);
    hub.vitals_until("it is being stopped", |vitals| vitals.processes[0].state == ProcessState::Stopping).await;
    agent.signal(Signal::INT);
    let (status, output) = agent.ended().await;
    assert!(status.success() && output.contains("stopped: SIGINT"), "{output}");
}

#[tokio::test]
async fn suspended_process_can_be_stopped() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1010"]).await;
    let hub = Hub::connect(&record).await;
    let vitals = hub.vitals_until("it runs", |vitals| vitals.processes[0].pid.is_some()).await;
    signal(vitals.processes[0].pid.unwrap(), Signal::STOP);
    let begun = Instant::now();
    agent.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "SIGTERM reached it");
}

#[tokio::test]
async fn detached_program_is_left_alone() {
    let lab = InstanceLab::new();
    let script = "(LINCHPIN_DETACHED=1 setsid sleep 1011 &); sleep 1012";
    let (agent, _) = lab.run("shop", &[], &["sh", "-c", script]).await;
    let free = lab.sleeps(1011).await;
    lab.sleeps(1012).await;
    agent.stop().await;
    assert!(lab.sleepers(1012).is_empty());
    assert!(is_alive(free));
    signal(free, Signal::KILL);
    until("it is gone", async || (!is_alive(free)).then_some(())).await;
}

#[tokio::test]
async fn hub_can_restart_and_stop_a_process() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1013"]).await;
    let hub = Hub::connect(&record).await;
    let first = hub.vitals_until("it runs", |vitals| vitals.processes[0].pid.is_some()).await.processes.remove(0);
    let answer = hub.post("/.linchpin/processes/main/restart", &[], json!(null)).await;
    assert_eq!(answer.status, 202);
    let again = |vitals: &linchpin_shared::protocol::vitals::Vitals| {
        vitals.processes[0].pid.is_some_and(|pid| Some(pid) != first.pid)
    };
    let second = hub.vitals_until("another process runs", again).await.processes.remove(0);
    assert_eq!((second.restarts, second.state), (0, ProcessState::Running), "asked for, not crashed");
    assert_eq!(hub.post(path::STOP, &[], json!(null)).await.status, 202);
    let (status, output) = agent.ended().await;
    assert!(status.success() && output.contains("stopped: linchpin stop"), "{output}");
    assert!(lab.names().is_empty());
}

/// Fault 13.
#[tokio::test]
async fn orphans_are_reaped() {
    let lab = InstanceLab::new();
    let script = "i=0; while [ $i -lt 5000 ]; do (: &); i=$((i+1)); done; echo stormed; sleep 1014";
    let (agent, _) = lab.run("shop", &[], &["sh", "-c", script]).await;
    lab.logged("shop", "stormed").await;
    let threads = format!("/proc/{}/task", agent.pid());
    until("only the process is left", async || {
        let threads = std::fs::read_dir(&threads).unwrap().map(|thread| thread.unwrap().path().join("children"));
        let children = threads.map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect::<String>();
        (children.split_whitespace().count() == 1).then_some(())
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn taken_name_is_refused_suffixed_or_taken_over() {
    let lab = InstanceLab::new();
    let (first, record) = lab.run("shop", &[], &["sleep", "1015"]).await;
    let (status, output) = lab.start(&["--name", "shop", "--", "sleep", "1016"]).ended().await;
    assert_eq!(status.code(), Some(4), "{output}");
    assert!(output.contains(&first.pid().to_string()) && output.contains("--alongside"), "{output}");
    assert!(lab.sleepers(1016).is_empty(), "nothing was started");
    let beside = lab.start(&["--name", "shop", "--alongside", "--", "sleep", "1017"]);
    let second = lab.registered("shop-2").await;
    assert_ne!(second.id, record.id);
    let over = lab.start(&["--name", "shop", "--take-over", "--", "sleep", "1018"]);
    let (status, output) = first.ended().await;
    assert!(status.success() && output.contains("stopped: SIGTERM"), "{output}");
    let third = lab.record("shop", |record| record.process.pid == over.pid()).await;
    assert_eq!(third.id, record.id);
    assert!(lab.sleepers(1015).is_empty());
    over.stop().await;
    beside.stop().await;
}

#[tokio::test]
async fn invalid_commands_are_refused_without_side_effects() {
    let lab = InstanceLab::new();
    for (words, code, text) in [
        (vec!["--name", "shop", "--", "no-such-program"], 1, "there is no program \"no-such-program\""),
        (vec!["--name", "No Name", "--", "true"], 2, "--name no-name"),
        (vec!["--name", "shop"], 2, "there is no command"),
        (vec!["--name", "shop", "--mcp-url", "ftp://x", "--", "true"], 2, "http://"),
    ] {
        let (status, output) = lab.start(&words).ended().await;
        assert_eq!(status.code(), Some(code), "{output}");
        assert!(output.contains(text), "{output}");
    }
    assert!(!lab.home().root().exists(), "nothing was written");
}

#[tokio::test]
async fn failed_exec_is_retried() {
    let lab = InstanceLab::new();
    let script = lab.project().join("tool");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (agent, record) = lab.run("shop", &[], &["./tool"]).await;
    let hub = Hub::connect(&record).await;
    let vitals = hub.vitals_until("it was tried", |vitals| vitals.processes[0].restarts > 0).await;
    assert!(vitals.processes[0].last_end.as_ref().unwrap().contains("could not be started"), "{vitals:?}");
    std::fs::write(&script, "#!/bin/sh\nexec sleep 1019\n").unwrap();
    hub.vitals_until("it runs", |vitals| vitals.processes[0].state == ProcessState::Running).await;
    agent.stop().await;
}

#[tokio::test]
async fn vanished_record_is_written_again() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1020"]).await;
    std::fs::rename(lab.home().instances(), lab.project().join("taken away")).unwrap();
    let again = lab.registered("shop").await;
    assert_eq!((again.generation, again.endpoint), (record.generation, record.endpoint));
    agent.stop().await;
    assert!(lab.names().is_empty());
}

#[tokio::test]
async fn leftovers_of_a_killed_agent_end_before_the_next_start() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sh", "-c", "setsid sleep 1021 & exec sleep 1022"]).await;
    let orphans = [lab.sleeps(1021).await, lab.sleeps(1022).await];
    agent.signal(Signal::KILL);
    agent.ended().await;
    assert!(orphans.iter().all(|pid| is_alive(*pid)), "nobody could end them");
    let seen = Registry::new(&lab.home()).scan().unwrap().entries.remove(0);
    assert_eq!((seen.record.generation, seen.owner), (record.generation, Owner::Dead));
    let (next, second) = lab.run("shop", &[], &["sleep", "1023"]).await;
    assert_ne!(second.generation, record.generation);
    lab.sleeps(1023).await;
    assert!(orphans.iter().all(|pid| !is_alive(*pid)));
    next.stop().await;
}

#[tokio::test]
async fn unread_output_flood_takes_no_memory() {
    let lab = InstanceLab::new();
    // Its output goes to a pipe that this test reads only after the end.
    let (agent, _) = lab.run("shop", &[], &["sh", "-c", "echo flood >&2; exec yes"]).await;
    lab.logged("shop", "y\ny\ny\n").await;
    let pid = agent.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 64 << 10, "{peak} kB");
    agent.signal(Signal::TERM);
    until("it ended", async || (!is_alive(pid)).then_some(())).await;
    assert!(lab.names().is_empty());
    agent.ended().await;
}

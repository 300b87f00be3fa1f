//! `--detach`: an agent in the background, and its keeper.

use crate::lab::hub::{Hub, Mcp};
use crate::lab::{InstanceLab, fixture, is_alive, signal, until};
use linchpin_shared::protocol::path;
use linchpin_shared::protocol::vitals::ProcessState;
use linchpin_shared::registry::record::Record;
use rustix::process::Signal;
use serde_json::json;

/// `run --detach`, which has returned.
async fn detach(lab: &InstanceLab, name: &str, flags: &[&str], command: &[&str]) -> Record {
    let words = [&["--name", name, "--detach"], flags, &["--"], command].concat();
    let (status, output) = lab.start(&words).ended().await;
    assert!(status.success() && output.contains("runs in the background"), "{output}");
    let record = lab.registered(name).await;
    assert!(output.contains(&record.process.pid.to_string()), "{output}");
    record
}

pub(crate) fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn killed_agent_is_restarted_without_leftovers() {
    let lab = InstanceLab::new();
    let script = "setsid sleep 1101 & sleep 1102";
    let first = detach(&lab, "shop", &[], &["sh", "-c", script]).await;
    let keeper = parent(first.process.pid);
    for _ in 0..3 {
        let left = [lab.sleeps(1101).await, lab.sleeps(1102).await];
        let before = lab.registered("shop").await;
        signal(before.process.pid, Signal::KILL);
        let after = lab.record("shop", |record| record.generation != before.generation).await;
        assert_eq!((after.id, parent(after.process.pid)), (first.id, keeper), "the same instance, the same keeper");
        assert!(left.iter().all(|pid| !is_alive(*pid)), "what was left ended before");
    }
    let last = lab.registered("shop").await;
    let hub = Hub::connect(&last).await;
    assert_eq!(hub.post(path::STOP, &[], json!(null)).await.status, 202);
    until("agent and keeper ended", async || (!is_alive(keeper) && !is_alive(last.process.pid)).then_some(())).await;
    assert!(lab.names().is_empty() && lab.sleepers(1101).is_empty() && lab.sleepers(1102).is_empty());
}

#[tokio::test]
async fn background_mcp_server_is_restarted_with_its_agent() {
    let lab = InstanceLab::new();
    let first = detach(&lab, "files", &["--mcp"], &["python3", &fixture("server.py")]).await;
    let (_, one) = Mcp::initialize(&Hub::connect(&first).await, json!({})).await;
    signal(first.process.pid, Signal::KILL);
    let second = lab.record("files", |record| record.generation != first.generation).await;
    let (mcp, two) = Mcp::initialize(&Hub::connect(&second).await, json!({})).await;
    assert_ne!(one["result"]["pid"], two["result"]["pid"]);
    assert_eq!(mcp.call(json!(1), "echo", json!({})).await.json()["id"], 1);
    assert!(!is_alive(one["result"]["pid"].as_u64().unwrap() as u32));
    // A signal to the keeper is one to the agent.
    signal(parent(second.process.pid), Signal::TERM);
    until("all is gone", async || (!is_alive(second.process.pid) && lab.names().is_empty()).then_some(())).await;
    until("the keeper too", async || lab.is_empty().then_some(())).await;
}

#[tokio::test]
async fn clean_end_is_not_restarted() {
    let lab = InstanceLab::new();
    let stopped = detach(&lab, "shop", &[], &["sleep", "1103"]).await;
    signal(stopped.process.pid, Signal::TERM);
    until("nothing is left", async || lab.is_empty().then_some(())).await;
    detach(&lab, "shop", &[], &["sh", "-c", "sleep 0.1"]).await;
    until("the command is done", async || lab.is_empty().then_some(())).await;
    assert!(lab.names().is_empty());
}

#[tokio::test]
async fn start_errors_reach_the_caller() {
    let lab = InstanceLab::new();
    let (status, output) = lab.start(&["--name", "shop", "--detach", "--", "no-such-program"]).ended().await;
    assert!(output.contains("there is no program \"no-such-program\""), "{output}");
    assert_eq!(status.code(), Some(1));
    let record = detach(&lab, "shop", &[], &["sleep", "1104"]).await;
    let (status, output) = lab.start(&["--name", "shop", "--detach", "--", "sleep", "1105"]).ended().await;
    assert_eq!(status.code(), Some(4), "{output}");
    assert!(output.contains(&record.process.pid.to_string()), "{output}");
    detach(&lab, "shop", &["--take-over"], &["sleep", "1106"]).await;
    assert!(!is_alive(record.process.pid));
    signal(lab.registered("shop").await.process.pid, Signal::TERM);
    until("nothing is left", async || lab.is_empty().then_some(())).await;
}

#[tokio::test]
async fn instance_started_alongside_keeps_its_name() {
    let lab = InstanceLab::new();
    let (agent, _) = lab.run("shop", &[], &["sleep", "1111"]).await;
    let words = ["--name", "shop", "--detach", "--alongside", "--", "sleep", "1107"];
    let (status, output) = lab.start(&words).ended().await;
    assert!(status.success() && output.contains("shop-2 runs"), "{output}");
    agent.stop().await;
    let first = lab.registered("shop-2").await;
    signal(first.process.pid, Signal::KILL);
    let second = lab.record("shop-2", |record| record.generation != first.generation).await;
    assert_eq!(second.id, first.id);
    signal(second.process.pid, Signal::TERM);
    until("nothing is left", async || lab.is_empty().then_some(())).await;
}

#[tokio::test]
async fn background_agent_has_no_terminal_and_its_own_session() {
    let lab = InstanceLab::new();
    let record = detach(&lab, "shop", &[], &["sleep", "1108"]).await;
    let session = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<String> = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
        (fields[3].clone(), fields[4].clone())
    };
    let keeper = parent(record.process.pid);
    assert_eq!(session(keeper), (keeper.to_string(), "0".into()), "leader of a session without a terminal");
    assert_eq!(session(record.process.pid).0, keeper.to_string());
    for pid in [keeper, record.process.pid] {
        let err = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
        assert_eq!(err, lab.home().process_log("shop", "agent"));
    }
    signal(record.process.pid, Signal::TERM);
    until("nothing is left", async || lab.is_empty().then_some(())).await;
}

#[tokio::test]
async fn keeper_ends_if_its_name_was_taken_meanwhile() {
    let lab = InstanceLab::new();
    let first = detach(&lab, "shop", &["--take-over"], &["sleep", "1109"]).await;
    let keeper = parent(first.process.pid);
    let left = lab.sleeps(1109).await;
    signal(keeper, Signal::STOP);
    signal(first.process.pid, Signal::KILL);
    until("the agent is dead", async || (!is_alive(first.process.pid)).then_some(())).await;
    // Of another project, so that it knows nothing of what is left.
    let other = lab.start_in(lab.home().root(), &["--name", "shop", "--", "sleep", "1110"]);
    lab.record("shop", |record| record.process.pid == other.pid()).await;
    assert!(is_alive(left));
    signal(keeper, Signal::CONT);
    until("the keeper ended", async || (!is_alive(keeper)).then_some(())).await;
    assert!(!is_alive(left), "the keeper ends what its agent left");
    assert!(is_alive(other.pid()), "to take over was asked for once, not for every life");
    other.stop().await;
}

/// The keeper that this agent started, when its own was killed.
pub(crate) async fn new_keeper(agent: u32) -> u32 {
    until("the agent has started another keeper", async || {
        children(agent).into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"--keeper") && hears_sigterm(*pid)
        })
    })
    .await
}

/// Whether it listens to SIGTERM already: until then it is ended by it.
fn hears_sigterm(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|bits| u64::from_str_radix(bits.trim(), 16).unwrap() & (1 << (15 - 1)) != 0)
}

fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|it| it.unwrap().path().join("children"));
    let lists = threads.map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect::<String>();
    lists.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Fault 4: keeper and agent are killed one after the other, in every order; the instance goes on.
#[tokio::test]
async fn killed_keeper_is_restarted_by_its_agent() {
    let lab = InstanceLab::new();
    let (beside, _) = lab.run("shop", &[], &["sleep", "1121"]).await;
    let words = ["--name", "shop", "--detach", "--alongside", "--", "sh", "-c", "setsid sleep 1122 & sleep 1123"];
    let (status, output) = lab.start(&words).ended().await;
    assert!(status.success(), "{output}");
    beside.stop().await;
    for _ in 0..2 {
        let first = lab.registered("shop-2").await;
        let (one, left) = (parent(first.process.pid), [lab.sleeps(1122).await, lab.sleeps(1123).await]);
        signal(one, Signal::KILL);
        let two = new_keeper(first.process.pid).await;
        signal(two, Signal::KILL);
        until("it is gone", async || (!is_alive(two)).then_some(())).await;
        let three = new_keeper(first.process.pid).await;
        assert_eq!(lab.registered("shop-2").await, first, "the instance did not notice");
        assert!(left.iter().all(|pid| is_alive(*pid)));
        signal(first.process.pid, Signal::KILL);
        let second = lab.record("shop-2", |record| record.generation != first.generation).await;
        assert_eq!((second.id, parent(second.process.pid)), (first.id, three), "started by the keeper that adopted it");
        assert!(left.iter().all(|pid| !is_alive(*pid)), "what was left ended before");
    }
    signal(lab.registered("shop-2").await.process.pid, Signal::TERM);
    until("all is gone", async || lab.is_empty().then_some(())).await;
    assert!(lab.names().is_empty());
}

/// A clean end is the end under a keeper that cannot see the exit code too, and a signal to it is one to the agent.
#[tokio::test]
async fn adopted_agent_ends_cleanly() {
    let lab = InstanceLab::new();
    for to_keeper in [false, true] {
        let record = detach(&lab, "shop", &[], &["sleep", "1124"]).await;
        lab.sleeps(1124).await;
        signal(parent(record.process.pid), Signal::KILL);
        let keeper = new_keeper(record.process.pid).await;
        signal(if to_keeper { keeper } else { record.process.pid }, Signal::TERM);
        until("all is gone", async || lab.is_empty().then_some(())).await;
        assert!(lab.names().is_empty());
    }
}

/// Fault 4: an agent that is killed in the midst of its stop is not started again, and what it left ends all the same.
#[tokio::test]
async fn agent_killed_during_its_stop_is_not_restarted() {
    for adopted in [false, true] {
        let lab = InstanceLab::new().with("LINCHPIN_INSTANCE_STOP_TIMEOUT_MS", "1000");
        let script = "trap '' TERM; (setsid sleep 1125 &); sleep 1126";
        let record = detach(&lab, "shop", &[], &["sh", "-c", script]).await;
        lab.sleeps(1125).await;
        lab.sleeps(1126).await;
        if adopted {
            signal(parent(record.process.pid), Signal::KILL);
            new_keeper(record.process.pid).await;
        }
        let hub = Hub::connect(&record).await;
        signal(record.process.pid, Signal::TERM);
        hub.vitals_until("it is being stopped", |vitals| vitals.processes[0].state == ProcessState::Stopping).await;
        signal(record.process.pid, Signal::KILL);
        until("nothing is left", async || lab.is_empty().then_some(())).await;
    }
}

//! Executables that are replaced or removed while they run.

use crate::lab::hub::Hub;
use crate::lab::{InstanceLab, example, is_alive, signal, until};
use linchpin_shared::protocol::vitals::ProcessState;
use rustix::process::Signal;
use std::path::{Path, PathBuf};

/// The file that a process executes, `PATH (deleted)` if it has no name any more.
fn executes(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

/// Puts a copy at this path, as an upgrade does: in one step, also over a file that is executed now.
fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    std::fs::copy(from, &new).unwrap();
    std::fs::rename(new, to).unwrap();
}

/// Fault 18: the agent that is started again is the new one; while there is none, the old one, also under a new keeper.
#[tokio::test]
async fn instance_outlives_its_executable() {
    let lab = InstanceLab::new();
    let binary = lab.project().join("run");
    let deleted = PathBuf::from(format!("{} (deleted)", binary.display()));
    install(&example("run"), &binary);
    let words = ["--name", "shop", "--detach", "--", "sleep", "1131"];
    let (status, output) = lab.start_as(&binary, &lab.project(), &words).ended().await;
    assert!(status.success(), "{output}");
    let first = lab.registered("shop").await;
    let keeper = crate::keeper::parent(first.process.pid);
    let again = async |before: &linchpin_shared::registry::record::Record| {
        signal(before.process.pid, Signal::KILL);
        lab.record("shop", |record| record.generation != before.generation).await
    };

    std::fs::remove_file(&binary).unwrap();
    let second = again(&first).await;
    assert_eq!(executes(second.process.pid), deleted, "removed: as before");
    signal(keeper, Signal::KILL);
    let keeper = crate::keeper::new_keeper(second.process.pid).await;
    assert_eq!(executes(keeper), deleted);

    install(&example("run"), &binary);
    let third = again(&second).await;
    assert_eq!(executes(third.process.pid), binary, "there again: the new one");
    install(&example("run"), &binary);
    assert_eq!(executes(third.process.pid), deleted, "replaced: it goes on");
    let fourth = again(&third).await;
    assert_eq!(executes(fourth.process.pid), binary, "replaced: the new one");
    signal(fourth.process.pid, Signal::TERM);
    until("all is gone", async || lab.is_empty().then_some(())).await;
}

/// Fault 18, of what is supervised: it goes on, and its next life is the new one, or says what is missing.
#[tokio::test]
async fn process_outlives_its_executable_and_restarts_from_the_new() {
    let lab = InstanceLab::new();
    let tool = lab.project().join("tool");
    install(Path::new("/bin/sleep"), &tool);
    let (agent, record) = lab.run("shop", &[], &["./tool", "1132"]).await;
    let hub = Hub::connect(&record).await;
    let pid = hub.vitals_until("it runs", |vitals| vitals.processes[0].pid.is_some()).await.processes[0].pid.unwrap();
    std::fs::remove_file(&tool).unwrap();
    assert!(is_alive(pid));
    signal(pid, Signal::KILL);
    let tried = hub.vitals_until("it was tried", |vitals| vitals.processes[0].restarts > 1).await;
    let why = tried.processes[0].last_end.clone().unwrap();
    assert!(why.contains("/tool: No such file or directory"), "{why}");
    assert!(tried.processes[0].next_start.is_some());
    std::fs::write(&tool, "#!/bin/sh\nexec sleep 1133\n").unwrap();
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    hub.vitals_until("it runs again", |vitals| vitals.processes[0].state == ProcessState::Running).await;
    lab.sleeps(1133).await;

    // What is missing may be the directory.
    std::fs::rename(lab.project(), lab.project().with_extension("away")).unwrap();
    signal(lab.sleeps(1133).await, Signal::KILL);
    let missing = "/project: No such file or directory (os error 2)";
    let told = |end: &String| end.ends_with(missing);
    hub.vitals_until("it is told", |vitals| vitals.processes[0].last_end.as_ref().is_some_and(told)).await;
    agent.stop().await;
}

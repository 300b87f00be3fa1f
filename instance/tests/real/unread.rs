//! What a killed server had not read yet was surely not executed.

use crate::lab::hub::{Hub, Mcp};
use crate::lab::{InstanceLab, signal, until};
use linchpin_shared::process::Signal;
use serde_json::json;
use std::fs::File;
use std::sync::Arc;

/// How many bytes wait in the standard input of this process.
fn unread(pid: u32) -> u64 {
    let stdin = File::open(format!("/proc/{pid}/fd/0")).unwrap();
    rustix::io::ioctl_fionread(stdin).unwrap()
}

/// Whether this process is stopped: state `T` of proc_pid_stat(5).
fn stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

#[tokio::test]
async fn unread_call_of_a_killed_server_counts_as_not_executed() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run_mcp("files").await;
    let hub = Hub::connect(&record).await;
    let (mcp, first) = Mcp::initialize(&hub, json!({})).await;
    let mcp = Arc::new(mcp);
    let pid = u32::try_from(first["result"]["pid"].as_u64().unwrap()).unwrap();
    let read = mcp.hang(&lab, 1).await;
    signal(pid, Signal::STOP);
    until("the server is stopped", async || stopped(pid).then_some(())).await;
    let waiting = tokio::spawn({
        let mcp = Arc::clone(&mcp);
        async move { mcp.call(json!(2), "echo", json!({})).await }
    });
    until("the call waits in the pipe", async || (unread(pid) > 0).then_some(())).await;
    signal(pid, Signal::KILL);
    let (status, code, not_executed) = waiting.await.unwrap().problem();
    assert_eq!((status, code.as_str(), not_executed), (503, "server_unavailable", true));
    let interrupted = read.await.unwrap();
    assert_eq!(interrupted.json()["error"]["data"]["code"], "call_interrupted", "this one it had read");
    assert_eq!(interrupted.header("linchpin-not-executed"), None);
    agent.stop().await;
}

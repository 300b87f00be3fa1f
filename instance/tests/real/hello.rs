//! The hello, vitals, and what an instance refuses.

use crate::lab::InstanceLab;
use crate::lab::hub::Hub;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use linchpin_shared::protocol::path;
use linchpin_shared::protocol::vitals::{ProcessState, Vitals};
use rustix::process::Signal;
use serde_json::json;

#[tokio::test]
async fn requests_before_the_proof_are_refused() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1000"]).await;
    let stranger = Hub::stranger(&record).await;
    for (method, path) in [(Method::GET, path::VITALS), (Method::POST, path::STOP), (Method::GET, "/")] {
        assert_eq!(stranger.ask(method, path, &[], "").await.problem(), (403, "unauthorized".into(), true), "{path}");
    }
    let proof = stranger.post(path::PROVE, &[], json!({"proof": "x"})).await;
    assert_eq!(proof.problem().1, "bad_request", "a proof without a hello");
    let (_, wrong) = stranger.hello(&record, "another secret").await;
    assert_eq!(stranger.post(path::PROVE, &[], json!(wrong)).await.problem().0, 401);
    let (_, right) = stranger.hello(&record, &record.secret).await;
    assert_eq!(stranger.post(path::PROVE, &[], json!(right)).await.status, StatusCode::NO_CONTENT);
    assert_eq!(stranger.get(path::VITALS).await.status, StatusCode::OK);
    let another = Hub::stranger(&record).await;
    assert_eq!(another.get(path::VITALS).await.status, StatusCode::FORBIDDEN, "each connection proves itself");
    let old = json!({"format": 99, "nonce": "x", "version": "x"});
    assert_eq!(another.post(path::HELLO, &[], old).await.problem().1, "version_mismatch");
    agent.stop().await;
}

/// A request keeps the id that the hub gave it; one without an id gets one.
#[tokio::test]
async fn a_response_carries_the_id_of_its_request() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1000"]).await;
    let hub = Hub::connect(&record).await;
    let kept = hub.ask(Method::GET, path::VITALS, &[("x-request-id", "from-the-hub")], "").await;
    assert_eq!(kept.headers["x-request-id"], "from-the-hub");
    let (one, two) = (hub.get(path::VITALS).await, hub.get("/.linchpin/x").await);
    assert_ne!(one.headers["x-request-id"], two.headers["x-request-id"]);
    agent.stop().await;
}

#[tokio::test]
async fn unknown_paths_and_names_are_problems() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1000"]).await;
    let hub = Hub::connect(&record).await;
    let restart = "/.linchpin/processes/x/restart";
    assert_eq!(hub.post(restart, &[], json!(null)).await.problem().1, "process_not_found");
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize"});
    assert_eq!(hub.post("/.linchpin/mcp/x", &[], message).await.problem(), (404, "server_not_found".into(), true));
    assert_eq!(hub.get("/.linchpin/x").await.problem().1, "not_found");
    agent.stop().await;
}

#[tokio::test]
async fn vitals_stream_reports_every_change() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1000"]).await;
    let hub = Hub::connect(&record).await;
    let before = hub.vitals_until("main runs", |vitals| vitals.processes[0].state == ProcessState::Running).await;
    assert_eq!((before.generation, before.processes[0].restarts), (record.generation, 0));
    let mut stream = hub.send(Method::GET, "/.linchpin/vitals?watch=1", &[], "").await;
    crate::lab::signal(before.processes[0].pid.unwrap(), Signal::KILL);
    let mut seen = Vec::new();
    let after = loop {
        let frame = stream.body_mut().frame().await.expect("the stream goes on").unwrap().into_data().unwrap();
        assert_eq!(frame.iter().filter(|byte| **byte == b'\n').count(), 1, "one object a line");
        let vitals: Vitals = serde_json::from_slice(&frame).unwrap();
        seen.push(vitals.processes[0].state);
        if vitals.processes[0].restarts == 1 && vitals.processes[0].state == ProcessState::Running {
            break vitals;
        }
    };
    assert_eq!(seen[0], ProcessState::Running, "the first line is now");
    assert!(seen.contains(&ProcessState::Waiting), "{seen:?}");
    assert_eq!(after.processes[0].last_end.as_deref(), Some("signal 9 (SIGKILL)"));
    assert_ne!(after.processes[0].pid, before.processes[0].pid);
    agent.stop().await;
    while let Some(frame) = stream.body_mut().frame().await {
        frame.expect("the instance says goodbye properly");
    }
}

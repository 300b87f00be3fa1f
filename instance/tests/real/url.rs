//! An MCP server that listens at a URL, behind an instance.

use crate::lab::hub::{Events, Hub, MAIN};
use crate::lab::{InstanceLab, fixture, signal};
use http::Method;
use linchpin_shared::protocol::vitals::{ProcessState, Transport};
use rustix::process::Signal;
use serde_json::json;

/// A port that nobody listens on just now. That it stays so is likely enough for a test.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn requests_pass_through_unchanged() {
    let (lab, port) = (InstanceLab::new(), free_port());
    let url = format!("http://127.0.0.1:{port}/mcp?x=1");
    let (agent, record) =
        lab.run("web", &["--mcp-url", &url], &["python3", &fixture("web.py"), &port.to_string()]).await;
    assert_eq!(record.servers[0].transport, Transport::Http);
    let hub = Hub::connect(&record).await;
    let headers = [("mcp-session-id", "s"), ("mcp-protocol-version", "2025-11-25"), ("linchpin-wait-ms", "15000")];
    let first = hub.post(MAIN, &headers, json!({"n": 1})).await;
    assert_eq!((first.status.as_u16(), first.header("mcp-session-id")), (201, Some("theirs")));
    let got = first.json();
    assert_eq!((&got["path"], &got["body"]), (&json!("/mcp?x=1"), &json!(r#"{"n":1}"#)));
    assert_eq!(got["headers"]["mcp-protocol-version"], "2025-11-25");
    assert_eq!(got["headers"]["host"], format!("127.0.0.1:{port}"));
    assert_eq!(got["headers"].get("linchpin-wait-ms"), None);
    let second = hub.ask(Method::DELETE, MAIN, &headers, "").await.json();
    assert_eq!((&second["method"], &second["port"]), (&json!("DELETE"), &got["port"]), "over the same connection");
    let mut stream = Events::of(hub.send(Method::GET, MAIN, &headers, "").await);
    assert_eq!(stream.next().await, Some(json!({"n": 0})), "at once, as the server waits");
    std::fs::write(lab.project().join("go on"), "").unwrap();
    assert_eq!(stream.next().await, Some(json!({"n": 1})));
    assert_eq!(stream.next().await, None);
    agent.stop().await;
}

#[tokio::test]
async fn broken_connection_is_distinguished_from_refused() {
    let (lab, port) = (InstanceLab::new(), free_port());
    let url = format!("http://127.0.0.1:{port}/mcp");
    let (agent, record) =
        lab.run("web", &["--mcp-url", &url], &["python3", &fixture("web.py"), &port.to_string()]).await;
    let hub = Hub::connect(&record).await;
    let wait = [("linchpin-wait-ms", "15000")];
    let broken = hub.post(MAIN, &wait, json!("hang up")).await;
    assert_eq!(broken.problem(), (502, "call_interrupted".into(), false));
    let vitals = hub.vitals().await;
    assert_eq!((vitals.servers[0].up, vitals.servers[0].epoch), (true, 1));
    signal(vitals.processes[0].pid.unwrap(), Signal::KILL);
    // Until its end is seen, its socket may take a connection that nobody will read.
    hub.vitals_until("its end was seen", |vitals| vitals.processes[0].restarts == 1).await;
    let again = hub.post(MAIN, &wait, json!("x")).await;
    assert_eq!(again.status, 201, "{again:?}");
    let vitals = hub.vitals_until("it runs", |vitals| vitals.processes[0].state == ProcessState::Running).await;
    assert_eq!((vitals.servers[0].up, vitals.servers[0].epoch), (true, 2));
    agent.stop().await;
}

#[tokio::test]
async fn server_url_without_a_process_is_registered() {
    let (lab, port) = (InstanceLab::new(), free_port());
    let url = format!("http://127.0.0.1:{port}/mcp");
    let agent = lab.start(&["--name", "web", "--mcp-url", &url]);
    let hub = Hub::connect(&lab.registered("web").await).await;
    assert_eq!(hub.post(MAIN, &[], json!("x")).await.problem(), (503, "server_unavailable".into(), true));
    let vitals = hub.vitals().await;
    assert_eq!((vitals.processes.len(), vitals.servers[0].up, vitals.servers[0].epoch), (0, true, 1));
    agent.stop().await;
}

//! A stdio MCP server behind an instance: its session is the life of its process.

use crate::lab::hub::{Hub, MAIN, Mcp};
use crate::lab::{InstanceLab, fixture, is_alive, signal, until};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use rustix::process::Signal;
use serde_json::{Value, json};

#[tokio::test]
async fn answer_is_json_and_becomes_a_stream_with_progress() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run_mcp("files").await;
    let hub = Hub::connect(&record).await;
    let (mcp, first) = Mcp::initialize(&hub, json!({})).await;
    assert_eq!(first["result"]["times"], 1);
    let answer = mcp.call(json!("a\"b"), "echo", json!({"n": 1})).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!((&answer.json()["id"], &answer.json()["result"]["got"]["arguments"]["n"]), (&json!("a\"b"), &json!(1)));
    assert!(answer.body.windows(12).any(|part| part == b"\"float\": 1.0"), "the bytes of the server: {answer:?}");
    let events = mcp.call(json!(2), "progress", json!({"times": 3})).await.events();
    let told: Vec<_> = events.iter().map(|event| &event["params"]["progress"]).collect();
    assert_eq!(told, [&json!(0), &json!(1), &json!(2), &Value::Null]);
    assert_eq!(events[3]["id"], 2);
    lab.logged("files", "[stdout] a server that greets on the wrong stream").await;
    lab.logged("files", "started").await;
    agent.stop().await;
}

#[tokio::test]
async fn restarted_hub_keeps_the_session_and_another_gets_a_new_run() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run_mcp("files").await;
    let (first, one) = Mcp::initialize(&Hub::connect(&record).await, json!({})).await;
    let hub = Hub::connect(&record).await;
    let (again, two) = Mcp::initialize(&hub, json!({})).await;
    assert_eq!((&first.session, &one["result"]), (&again.session, &two["result"]));
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let mut stream = first.listen().await;
    for mcp in [&first, &again] {
        assert_eq!(mcp.send(ready.clone()).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(again.send(json!({"jsonrpc": "2.0", "method": "notifications/x"})).await.status, StatusCode::ACCEPTED);
    let seen = [stream.next().await.unwrap(), stream.next().await.unwrap()];
    let methods = seen.each_ref().map(|event| event["params"]["data"]["method"].as_str().unwrap());
    assert_eq!(methods, ["notifications/initialized", "notifications/x"], "the server was told once");
    let (able, _) = Mcp::initialize(&hub, json!({"sampling": {}})).await;
    assert_eq!(able.session, first.session, "what a hub can do makes no new life");
    let (other, three) = Mcp::initialize_as(&hub, "2025-06-18", json!({})).await;
    assert_ne!(other.session, first.session);
    assert_ne!(three["result"]["pid"], one["result"]["pid"], "a new process");
    assert_eq!(three["result"]["times"], 1);
    let server = hub.vitals().await.servers.remove(0);
    assert_eq!((server.up, server.epoch), (true, 2));
    assert!(stream.next().await.is_none(), "the streams of the first life have ended");
    agent.stop().await;
}

#[tokio::test]
async fn killed_server_is_restarted_and_every_call_is_answered() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run_mcp("files").await;
    let hub = Hub::connect(&record).await;
    let (mcp, first) = Mcp::initialize(&hub, json!({})).await;
    let pid = first["result"]["pid"].as_u64().unwrap() as u32;
    let under_way = mcp.hang(&lab, 1).await;
    signal(pid, Signal::KILL);
    let silent = under_way.await.unwrap();
    let error = &silent.json()["error"];
    assert_eq!((silent.status, &silent.json()["id"]), (StatusCode::OK, &json!(1)));
    assert_eq!((&error["code"], &error["data"]["code"]), (&json!(-32000), &json!("call_interrupted")));
    assert!(error["message"].as_str().unwrap().contains("SIGKILL"), "{error}");
    assert_eq!(silent.header("linchpin-not-executed"), None, "it may have been executed");
    // The old session is refused, before and after the restart, as not executed.
    let refused = mcp.call(json!(3), "echo", json!({})).await.problem();
    assert!(
        [(503, "server_unavailable".into(), true), (404, "not_found".into(), true)].contains(&refused),
        "{refused:?}"
    );
    let (fresh, second) = Mcp::initialize(&hub, json!({})).await;
    assert_eq!(mcp.call(json!(4), "echo", json!({})).await.problem(), (404, "not_found".into(), true));
    assert_ne!(second["result"]["pid"], first["result"]["pid"]);
    assert_eq!(fresh.call(json!(5), "echo", json!({})).await.json()["id"], 5);
    let vitals = hub.vitals().await;
    assert_eq!((vitals.servers[0].epoch, vitals.processes[0].restarts), (2, 1));
    agent.stop().await;
}

#[tokio::test]
async fn interruption_after_progress_is_an_event() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run_mcp("files").await;
    let hub = Hub::connect(&record).await;
    let (mcp, first) = Mcp::initialize(&hub, json!({})).await;
    let progress = r#"{"method":"notifications/progress","params":{"progressToken":1}}"#;
    let params = json!({"name": "mute", "_meta": {"progressToken": 1}});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let headers = [("mcp-session-id", mcp.session.as_str())];
    // The server handles both in turn, so the call is open when the progress is told.
    let (streamed, said) = tokio::join!(
        hub.send(Method::POST, MAIN, &headers, call),
        mcp.call(json!(2), "say", json!({"line": progress}))
    );
    assert_eq!(said.status, StatusCode::OK);
    signal(first["result"]["pid"].as_u64().unwrap() as u32, Signal::KILL);
    let body = streamed.into_body().collect().await.unwrap().to_bytes();
    let last = std::str::from_utf8(&body).unwrap().trim_end().lines().last().unwrap().to_owned();
    assert!(last.contains("call_interrupted") && last.contains("\"id\":1"), "{last}");
    agent.stop().await;
}

#[tokio::test]
async fn last_answer_arrives_while_a_grandchild_holds_the_pipe() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run_mcp("files").await;
    let hub = Hub::connect(&record).await;
    for life in 1..=10 {
        let (mcp, first) = Mcp::initialize(&hub, json!({})).await;
        let answer = mcp.call(json!(life), "answer_and_exit", json!({})).await.json();
        assert_eq!(answer["result"]["pid"], first["result"]["pid"], "{answer}");
        // The end is seen on the process: the grandchild would hold the pipe for 1000 s.
        let seen = hub.vitals_until("the end was seen", |vitals| vitals.processes[0].restarts == life).await;
        assert_eq!(seen.processes[0].last_end.as_deref(), Some("exit 3"));
        assert!(lab.sleepers(1000).is_empty(), "the tree is gone before the next life is planned");
    }
    agent.stop().await;
}

#[tokio::test]
async fn server_that_is_down_is_reported_and_waited_for() {
    let lab = InstanceLab::new();
    let script = format!("test -e go || exit 7; exec python3 {}", fixture("server.py"));
    let (agent, record) = lab.run("files", &["--mcp"], &["sh", "-c", &script]).await;
    let hub = Hub::connect(&record).await;
    hub.vitals_until("it failed", |vitals| vitals.processes[0].restarts > 1).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let (gone, initialize) =
        (Mcp { hub: hub.clone(), session: "gone".into() }, json!({"id": 1, "method": "initialize"}));
    let refused = gone.send(ping).await;
    // Down most of the time, but each short life has a session of its own.
    assert!(matches!(refused.status.as_u16(), 503 | 404), "{refused:?}");
    assert_eq!(refused.header("linchpin-not-executed"), Some("1"));
    let at_once = until("no life is there", async || {
        let answer = hub.post(MAIN, &[], initialize.clone()).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(at_once.problem(), (503, "server_unavailable".into(), true));
    assert_eq!(at_once.json()["observed"]["ended"], "exit 7");
    let (waited, ()) = tokio::join!(Mcp::initialize(&hub, json!({})), async {
        std::fs::write(lab.project().join("go"), "").unwrap();
    });
    assert_eq!(waited.1["result"]["times"], 1);
    agent.stop().await;
}

#[tokio::test]
async fn unrelated_messages_reach_every_listener() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run_mcp("files").await;
    let hub = Hub::connect(&record).await;
    let (mcp, _) = Mcp::initialize(&hub, json!({})).await;
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    let asked = json!({"jsonrpc": "2.0", "id": "s1", "method": "sampling/createMessage", "params": {}});
    mcp.call(json!(1), "say", json!({"line": changed.to_string()})).await;
    let mut first = mcp.listen().await;
    assert_eq!(first.next().await.unwrap(), changed, "kept while nobody listened");
    let mut second = mcp.listen().await;
    mcp.call(json!(2), "say", json!({"line": asked.to_string()})).await;
    for stream in [&mut first, &mut second] {
        assert_eq!(stream.next().await.unwrap(), asked);
    }
    let answer = json!({"jsonrpc": "2.0", "id": "s1", "result": {"text": "x"}});
    assert_eq!(mcp.send(answer.clone()).await.status, StatusCode::ACCEPTED);
    assert_eq!(first.next().await.unwrap()["params"]["data"], answer, "the answer reached the server");
    agent.stop().await;
}

#[tokio::test]
async fn invalid_messages_are_refused_and_break_nothing() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run_mcp("files").await;
    let hub = Hub::connect(&record).await;
    let (mcp, _) = Mcp::initialize(&hub, json!({})).await;
    let session = [("mcp-session-id", mcp.session.as_str())];
    for junk in ["{", "[]", r#"[{"id":1,"method":"ping"}]"#, r#"{"id":1,"id":1,"method":"ping"}"#, "null", ""] {
        assert_eq!(hub.ask(Method::POST, MAIN, &session, junk).await.problem().0, 400, "{junk}");
    }
    let pretty =
        "{\n  \"jsonrpc\": \"2.0\",\r\n  \"id\": 7,\n  \"method\": \"tools/call\",\n \"params\": {\"name\": \"x\"}}\n";
    assert_eq!(hub.ask(Method::POST, MAIN, &session, pretty).await.json()["id"], 7);
    assert_eq!(hub.ask(Method::POST, MAIN, &[], pretty).await.problem(), (400, "bad_request".into(), true));
    assert_eq!(hub.ask(Method::DELETE, MAIN, &session, "").await.problem().0, 405);
    assert_eq!(hub.ask(Method::GET, MAIN, &[("mcp-session-id", "x")], "").await.problem().0, 404);
    let under_way = mcp.hang(&lab, 8).await;
    assert_eq!(mcp.call(json!(8), "echo", json!({})).await.problem(), (400, "bad_request".into(), false));
    assert_eq!(mcp.call(json!(9), "echo", json!({})).await.json()["id"], 9);
    agent.stop().await;
    assert_eq!(under_way.await.unwrap().json()["error"]["code"], -32000);
}

#[tokio::test]
async fn broken_session_ends_with_its_process() {
    let lab = InstanceLab::new().with("LINCHPIN_INSTANCE_MAX_LINE_BYTES", "65536");
    let (agent, record) = lab.run_mcp("files").await;
    let hub = Hub::connect(&record).await;
    for (life, tool, line, why) in
        [(1, "eof", String::new(), "closed its standard output"), (2, "say", "x".repeat(70_000), "longer line")]
    {
        let (mcp, first) = Mcp::initialize(&hub, json!({})).await;
        let under_way = mcp.hang(&lab, life).await;
        let answer = mcp.call(json!(9), tool, json!({"line": line})).await;
        for interrupted in [under_way.await.unwrap().json(), answer.json()] {
            assert!(interrupted["error"]["message"].as_str().unwrap().contains(why), "{interrupted}");
        }
        let vitals = hub.vitals_until("started again", |vitals| vitals.processes[0].restarts == life).await;
        assert!(vitals.processes[0].last_end.as_ref().unwrap().contains(why), "{vitals:?}");
        assert!(!is_alive(first["result"]["pid"].as_u64().unwrap() as u32));
    }
    agent.stop().await;
}

#[tokio::test]
async fn stop_lets_calls_end_and_closes_the_input_of_the_server() {
    let lab = InstanceLab::new();
    let script = format!("python3 {}; echo the server ended by itself >&2; exit 0", fixture("server.py"));
    let (agent, record) = lab.run("files", &["--mcp"], &["sh", "-c", &script]).await;
    let hub = Hub::connect(&record).await;
    let (mcp, _) = Mcp::initialize(&hub, json!({})).await;
    let under_way = mcp.hang(&lab, 1).await;
    agent.signal(Signal::TERM);
    let refused = until("new calls are refused", async || {
        let answer = mcp.call(json!(2), "echo", json!({})).await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    assert_eq!(refused.problem(), (503, "server_unavailable".into(), true));
    assert_eq!(refused.json()["detail"], "files is stopping", "it still runs, for the call under way");
    assert!(under_way.await.unwrap().json()["error"]["message"].as_str().unwrap().contains("stopped on request"));
    let (status, output) = agent.ended().await;
    assert!(status.success() && output.contains("the server ended by itself"), "{output}");
    assert!(lab.names().is_empty(), "unregistered");
}

//! The rules of Streamable HTTP.

use crate::lab::GatewayLab;
use anyhow::{Context, Result};
use linchpin_tests::agent::stream::Stream;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

#[tokio::test]
async fn each_protocol_version_is_negotiated() -> Result<()> {
    let lab = GatewayLab::new().await?;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let agent = lab.client("/mcp").begin_as(version).await?;
        assert_eq!(agent.about()["protocolVersion"], version);
        assert_eq!(agent.about()["serverInfo"]["name"], "linchpin");
        assert_eq!(agent.exchange(json!("p"), "ping", json!({})).await?.result()?, &json!({}));
    }
    let agent = lab.client("/mcp").begin_as("2026-07-28").await?;
    assert_eq!(agent.about()["protocolVersion"], "2025-11-25");
    Ok(())
}

#[tokio::test]
async fn invalid_messages_are_refused_with_a_problem() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let agent = lab.agent("/mcp").await?;
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for (body, status, code) in [
        ("{broken", 400, -32700),
        ("", 400, -32700),
        ("\"x\"", 400, -32600),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, 400, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, 400, -32600),
        (&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":{deep}}}}}"#), 413, -32600),
    ] {
        let response = agent.post(body.to_owned()).send().await?;
        assert_eq!(response.status().as_u16(), status, "{body}");
        let answered: Value = response.json().await?;
        assert_eq!(answered["error"]["code"], code, "{body}");
        assert!(answered["error"]["data"]["detail"].is_string() && answered["id"].is_null(), "{answered}");
    }
    let typed = agent.post("{}").header(CONTENT_TYPE, "text/plain");
    let plain = reqwest::Client::new().post(agent.url()).header(CONTENT_TYPE, "text/plain").body("{}").send().await?;
    assert_eq!(plain.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    drop(typed);
    assert_eq!(agent.exchange(json!(1), "no/such", json!({})).await?.error()?["code"], -32601);
    Ok(())
}

#[tokio::test]
async fn message_beyond_the_limit_is_refused() -> Result<()> {
    let lab = GatewayLab::with(|settings| settings.gateway.max_message_bytes = 1000).await?;
    let agent = lab.agent("/mcp").await?;
    let response = agent.post(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(2000))).send().await?;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(agent.exchange(json!(1), "ping", json!({})).await?.result()?, &json!({}));
    Ok(())
}

#[tokio::test]
async fn requests_need_a_session_id_of_this_hub() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let agent = lab.agent("/mcp").await?;
    let own = agent.session().context("no session")?;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    let status = async |session: &str, version: Option<&str>| -> Result<u16> {
        let http = reqwest::Client::new();
        let mut request = http.post(agent.url()).header(CONTENT_TYPE, "application/json").body(ping.clone());
        request = if session.is_empty() { request } else { request.header("mcp-session-id", session) };
        request = if let Some(version) = version { request.header("mcp-protocol-version", version) } else { request };
        Ok(request.send().await?.status().as_u16())
    };
    assert_eq!(status("", None).await?, 400);
    assert_eq!(status(own, None).await?, 200);
    assert_eq!(status(own, Some("2025-06-18")).await?, 200);
    assert_eq!(status(own, Some("2026-07-28")).await?, 400);
    let mut forged = own.to_owned();
    let last = if forged.pop() == Some('A') { 'B' } else { 'A' };
    forged.push(last);
    assert_eq!(status(&forged, None).await?, 404);
    assert_eq!(status("1.2025-11-25.AAAA.AAAA", None).await?, 404);
    let moved = agent.elsewhere(lab.url("/i/shop/mcp"));
    assert_eq!(moved.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})).await?.status(), 404);
    assert_eq!(agent.end().await?, StatusCode::NO_CONTENT);
    assert_eq!(status(own, None).await?, 404);
    assert_eq!(agent.end().await?, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn session_has_one_stream_that_a_new_one_replaces() -> Result<()> {
    let lab = GatewayLab::new().await?;
    let agent = lab.agent("/mcp").await?;
    let mut first = agent.listen().await?;
    let _second = agent.listen().await?;
    assert!(first.next().await?.is_none());
    let http = reqwest::Client::new();
    let session = agent.session().context("no session")?;
    let refused = http.get(agent.url()).header(ACCEPT, "text/html").header("mcp-session-id", session);
    assert_eq!(refused.send().await?.status(), StatusCode::NOT_ACCEPTABLE);
    assert_eq!(
        http.get(agent.url()).header(ACCEPT, "text/event-stream").send().await?.status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(http.put(agent.url()).send().await?.status(), StatusCode::METHOD_NOT_ALLOWED);
    Ok(())
}

#[tokio::test]
async fn path_of_an_unknown_instance_is_not_found() -> Result<()> {
    let mut lab =
        GatewayLab::with(|settings| settings.gateway.list_wait = std::time::Duration::from_millis(300)).await?;
    lab.start("shop").await?;
    let init = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}});
    for (path, code) in [("/i/shpo/mcp", "instance_not_found"), ("/i/shop/files/mcp", "server_not_found")] {
        let response = reqwest::Client::new().post(lab.url(path)).json(&init).send().await?;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let answered = Stream::of(response).to_end().await?;
        assert_eq!(answered.error()?["data"]["code"], code, "{answered:?}");
    }
    Ok(())
}

#[tokio::test]
async fn client_that_accepts_no_stream_gets_plain_json() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("shop").await?;
    let agent = lab.agent("/mcp").await?;
    let params =
        json!({"name": "shop__progress", "arguments": {"steps": 3, "say": "x"}, "_meta": {"progressToken": 1}});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let http = reqwest::Client::new();
    let session = agent.session().context("no session")?;
    let request = http.post(agent.url()).header(ACCEPT, "application/json").header("mcp-session-id", session);
    let response = request.json(&call).send().await?;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(Stream::of(response).to_end().await?.text()?, "x");
    Ok(())
}

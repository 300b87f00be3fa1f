//! The guard on every route, and the limits of a request head.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::Agent;
use linchpin_tests::lab::{Lab, verb::check_problem};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;

/// Every route of the hub with all its methods and one more, and a path that is not a route.
fn routes() -> Vec<(String, String)> {
    let mut routes = vec![("GET".to_owned(), "/nothing/here".to_owned())];
    for route in linchpin_hub::internals::routes() {
        let path = route.path.replace("{name}", "x").replace("{server}", "y");
        let methods = route.methods.iter().map(ToString::to_string).chain(["PUT".to_owned()]);
        routes.extend(methods.map(|method| (method, path.clone())));
    }
    routes
}

/// Sends a request with these header lines.
async fn ask(lab: &Lab, method: &str, path: &str, headers: &[&str]) -> Result<(u16, String)> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    lab.raw(&format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")).await
}

fn token(lab: &Lab) -> Result<String> {
    Ok(format!("Authorization: Bearer {}", lab.hub_facts()?.token))
}

/// Host headers of rebound or forged requests.
const FOREIGN_HOSTS: [&str; 12] = [
    "Host: rebound.example",
    "Host: rebound.example:80",
    "Host: localhost.rebound.example",
    "Host: 127.0.0.1.nip.io",
    "Host: localhost.",
    "Host: me@localhost",
    "Host: localhost:80@rebound.example",
    "Host: [2001:db8::1]",
    "Host: [::1",
    "Host: 0.0.0.0",
    "Host:",
    "X: no host at all",
];

/// Origins of foreign pages, and what browsers send instead of an origin.
const FOREIGN_PAGES: [&str; 8] = [
    "Origin: http://page.example",
    "Origin: null",
    "Origin: https://127.0.0.1",
    "Origin: http://127.0.0.1:3000",
    "Origin: http://localhost",
    "Origin: file://",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
];

/// Fault 65: on every route, with every method, with the token and without it.
#[tokio::test]
async fn every_route_checks_host_origin_and_token() -> Result<()> {
    let lab = Lab::new()?;
    lab.json(&["status"]).await?;
    let (hub, token, own) = (lab.hub_process()?, token(&lab)?, "Host: 127.0.0.1");
    let secret = token.trim_start_matches("Authorization: Bearer ").to_owned();
    let routes = routes();
    assert!(routes.len() > 30, "{routes:?}");
    for (method, path) in &routes {
        let status = async |headers: &[&str]| -> Result<u16> { Ok(ask(&lab, method, path, headers).await?.0) };
        for host in FOREIGN_HOSTS {
            assert!(matches!(status(&[host, &token]).await?, 403 | 400), "{method} {path} with {host:?}");
        }
        assert_eq!(status(&[own, own, &token]).await?, 403, "{method} {path} with two hosts");
        for page in FOREIGN_PAGES {
            assert_eq!(status(&[own, &token, page]).await?, 403, "{method} {path} with {page:?}");
        }
        let absolute = format!("http://rebound.example{path}");
        assert_eq!(ask(&lab, method, &absolute, &[own, &token]).await?.0, 403, "{method} {absolute}");
        if matches!(path.as_str(), "/health" | "/v1/proof") {
            continue;
        }
        let in_query = format!("{path}?token={secret}&access_token={secret}");
        assert_eq!(ask(&lab, method, &in_query, &[own]).await?.0, 401, "{method} {path} with the token in its query");
        let wrong =
            ["Authorization: Bearer wrong", &token.replace("Bearer", "Basic"), "Cookie: token=x"].map(str::to_owned);
        for wrong in wrong.iter().map(String::as_str).chain(["Authorization:", "X: no token"]) {
            assert_eq!(status(&[own, wrong]).await?, 401, "{method} {path} with {wrong:?}");
        }
        assert_eq!(status(&[own, &token, &token]).await?, 401, "{method} {path} with two tokens");
    }
    assert_eq!(ask(&lab, "GET", "/health", &[own]).await?.0, 200);
    assert_eq!(ask(&lab, "GET", "http://localhost/health", &[own]).await?.0, 200);
    assert_eq!(lab.hub_process()?, hub, "it lives");
    assert!(hub.is_alive());
    lab.terminate().await
}

/// Fault 65: requests that a page of another site can make a browser send.
#[tokio::test]
async fn forms_and_sockets_of_other_sites_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.json(&["status"]).await?;
    lab.serve("shop").await?;
    let (hub, own, page) = (lab.hub_process()?, "Host: 127.0.0.1", "Origin: http://page.example");
    let socket = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="];
    let before = lab.json(&["status", "shop"]).await?;
    for (method, path) in &routes() {
        let path = path.replace("/x", "/shop");
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json"] {
            let form = format!("Content-Type: {kind}");
            assert_eq!(ask(&lab, method, &path, &[own, page, &form]).await?.0, 403, "{method} {path} as {kind}");
        }
        let from_page = [&[own, page], &socket[..]].concat();
        assert_eq!(ask(&lab, method, &path, &from_page).await?.0, 403, "{method} {path} as a socket");
        let (status, answer) = ask(&lab, method, &path, &[&[own], &socket[..]].concat()).await?;
        let open = matches!(path.as_str(), "/health" | "/v1/proof");
        assert!(status == 401 || (open && status != 101), "{method} {path} as a socket without a token: {answer}");
    }
    let after = lab.json(&["status", "shop"]).await?;
    assert_eq!((&after["pid"], &after["processes"]), (&before["pid"], &before["processes"]));
    assert!(hub.is_alive() && lab.hub_process()? == hub, "nothing was stopped");
    lab.terminate().await
}

/// Fault 65: HTTP/2 is refused, so its `:authority` needs no check.
#[tokio::test]
async fn http2_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.json(&["status"]).await?;
    let (status, answer) = lab.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0").await?;
    assert!(matches!(status, 400 | 403 | 505 | 0) && !answer.contains("200 OK"), "{answer:?}");
    let token = token(&lab)?;
    let upgrade = ["Host: rebound.example", &token, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"];
    assert_eq!(ask(&lab, "GET", "/status", &upgrade).await?.0, 403);
    let upgrade = [&["Host: localhost"], &upgrade[1..], &["HTTP2-Settings: AAMAAABkAAQAAP__"]].concat();
    assert_eq!(ask(&lab, "GET", "/status", &upgrade).await?.0, 200, "it is not upgraded");
    lab.terminate().await
}

/// Fault 65: no state change on GET.
#[tokio::test]
async fn get_requests_change_nothing() -> Result<()> {
    let lab = Lab::new()?;
    lab.json(&["status"]).await?;
    lab.serve("shop").await?;
    let (hub, token) = (lab.hub_process()?, token(&lab)?);
    let before = lab.json(&["status", "shop"]).await?;
    let changing = linchpin_hub::internals::routes().into_iter().filter(|route| route.methods == ["POST"]);
    for path in changing.map(|route| route.path.replace("{name}", "shop")) {
        for method in ["GET", "HEAD", "OPTIONS", "PUT"] {
            let (status, answer) = ask(&lab, method, &path, &["Host: localhost", &token]).await?;
            assert_eq!(status, 405, "{method} {path}: {answer}");
        }
    }
    assert_eq!(lab.json(&["status"]).await?["hub"]["pid"], hub.pid);
    let after = lab.json(&["status", "shop"]).await?;
    assert_eq!((&after["pid"], &after["processes"]), (&before["pid"], &before["processes"]));
    lab.terminate().await
}

#[tokio::test]
async fn request_heads_are_bounded() -> Result<()> {
    let lab = Lab::new()?;
    lab.json(&["status"]).await?;
    let health = async |headers: &[&str]| ask(&lab, "GET", "/health", headers).await;
    let large = format!("X-Large: {}", "x".repeat(48 << 10));
    assert_eq!(health(&["Host: localhost", &large]).await?.0, 200, "within the bound");
    let many: Vec<_> = (0..80).map(|number| format!("X-{number}: x")).collect();
    let many: Vec<&str> = std::iter::once("Host: localhost").chain(many.iter().map(String::as_str)).collect();
    assert_eq!(health(&many).await?.0, 200, "within the bound");

    let too_large = format!("X-Large: {}", "x".repeat(160 << 10));
    let (status, answer) = health(&["Host: localhost", &too_large]).await?;
    // A client that still sends when the hub closes may only see the end of the connection.
    assert!(matches!(status, 431 | 0), "{answer}");
    let too_many = [&many[..], &["Y: y"; 30]].concat();
    let (status, answer) = health(&too_many).await?;
    assert!(matches!(status, 431 | 0), "{answer}");
    assert_eq!(health(&["Host: localhost"]).await?.0, 200, "it used one connection");
    lab.terminate().await
}

/// All files under a directory.
fn files(dir: &Path, found: &mut Vec<(String, String)>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push((path.display().to_string(), String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()));
        }
    }
    Ok(())
}

#[tokio::test]
async fn logs_and_answers_contain_no_secret() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_LOG", "trace");
    lab.serve("shop").await?;
    let mut shim = lab.shim(&[]).await?;
    shim.request("tools/call", json!({"name": "shop__echo", "arguments": {"text": "hello"}})).await?;
    shim.close().await?;
    let mut secrets = vec![lab.hub_facts()?.token];
    let mut records = Vec::new();
    files(&lab.home().join("instances"), &mut records)?;
    for (path, text) in records.iter().filter(|(path, _)| path.ends_with(".json")) {
        let record: serde_json::Value = serde_json::from_str(text).with_context(|| path.clone())?;
        secrets.push(record["secret"].as_str().context("no secret")?.to_owned());
    }
    assert_eq!(secrets.len(), 2);
    let mut said = Vec::new();
    files(&lab.home().join("logs"), &mut said)?;
    for arguments in [&["status"][..], &["status", "shop"], &["explain", "shop"], &["config", "show", "--origin"]] {
        said.push((arguments.join(" "), lab.json(arguments).await?.to_string()));
    }
    assert!(
        said.iter().any(|(path, text)| path.ends_with("hub.log") && text.contains("TRACE")),
        "the log level was trace"
    );
    for (path, text) in &said {
        assert!(secrets.iter().all(|secret| !text.contains(secret.as_str())), "{path} tells a secret");
    }
    lab.terminate().await
}

struct Requests {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Requests {
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<(StatusCode, Value)> {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, body) = (response.status(), response.text().await?);
        Ok((status, serde_json::from_str(&body).unwrap_or(Value::String(body))))
    }

    async fn refuses(&self, path: &str, headers: &[(&str, &str)], status: StatusCode, code: &str) -> Result<()> {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::OPTIONS] {
            let (seen, body) = self.send(method.clone(), path, headers).await?;
            ensure!(seen == status, "{method} {path} with {headers:?}: {seen} {body}");
            assert_eq!(body["code"], code, "{method} {path}: {body}");
            check_problem(&body)?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn foreign_hosts_origins_and_wrong_tokens_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let facts = lab.hub_facts()?;
    let requests =
        Requests { client: reqwest::Client::new(), url: facts.url, token: format!("Bearer {}", facts.token) };
    let token = requests.token.as_str();
    for path in ["/mcp", "/i/x/mcp", "/v1/instances", "/status", "/health", "/nowhere"] {
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80"] {
            let headers = [("host", host), ("authorization", token)];
            requests.refuses(path, &headers, StatusCode::FORBIDDEN, "forbidden_host").await?;
        }
        for origin in ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost:1"] {
            let headers = [("origin", origin), ("authorization", token)];
            requests.refuses(path, &headers, StatusCode::FORBIDDEN, "forbidden_origin").await?;
        }
    }
    for path in ["/mcp", "/i/x/mcp", "/v1/instances", "/status", "/nowhere"] {
        for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "Basic x")]] {
            requests.refuses(path, headers, StatusCode::UNAUTHORIZED, "unauthorized").await?;
        }
    }
    let (status, health) = requests.send(Method::GET, "/health", &[]).await?;
    ensure!(status == StatusCode::OK && health["status"].is_string(), "health needs no token: {status} {health}");
    let port = lab.port();
    for host in ["localhost", "app.localhost", "127.0.0.1", "[::1]"] {
        let host = format!("{host}:{port}");
        let (status, body) = requests.send(Method::GET, "/health", &[("host", &host)]).await?;
        ensure!(status == StatusCode::OK, "Host {host} is refused: {status} {body}");
    }
    lab.finish().await
}

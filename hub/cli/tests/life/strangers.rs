//! Whom the hub lets in, on every route, and what a head may be.

use crate::world::{Shim, World};
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;

/// Every route that the hub has, with every method that it takes and one that it does not, and one that it has not.
fn routes() -> Vec<(String, String)> {
    let mut routes = vec![("GET".to_owned(), "/nothing/here".to_owned())];
    for route in linchpin_hub::internals::routes() {
        let path = route.path.replace("{name}", "x").replace("{server}", "y");
        let methods = route.methods.iter().map(ToString::to_string).chain(["PUT".to_owned()]);
        routes.extend(methods.map(|method| (method, path.clone())));
    }
    routes
}

/// A request with these header lines.
fn ask(world: &World, method: &str, path: &str, headers: &[&str]) -> Result<(u16, String)> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    world.raw(&format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"))
}

fn token(world: &World) -> Result<String> {
    Ok(format!("Authorization: Bearer {}", world.file()?["token"].as_str().context("no token")?))
}

/// Names that a rebound or forged request may have. The first line of a request may name one too.
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

/// Pages that are not ours, and what browsers say of them where they send no origin.
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

/// Fault 65: on every route, by every method, with the token and without it.
#[test]
fn every_route_is_guarded() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let (hub, token, own) = (world.hub()?, token(&world)?, "Host: 127.0.0.1");
    let secret = token.trim_start_matches("Authorization: Bearer ").to_owned();
    let routes = routes();
    assert!(routes.len() > 30, "{routes:?}");
    for (method, path) in &routes {
        let status = |headers: &[&str]| -> Result<u16> { Ok(ask(&world, method, path, headers)?.0) };
        for host in FOREIGN_HOSTS {
            assert!(matches!(status(&[host, &token])?, 403 | 400), "{method} {path} with {host:?}");
        }
        assert_eq!(status(&[own, own, &token])?, 403, "{method} {path} with two hosts");
        for page in FOREIGN_PAGES {
            assert_eq!(status(&[own, &token, page])?, 403, "{method} {path} with {page:?}");
        }
        let absolute = format!("http://rebound.example{path}");
        assert_eq!(ask(&world, method, &absolute, &[own, &token])?.0, 403, "{method} {absolute}");
        if matches!(path.as_str(), "/health" | "/v1/proof") {
            continue;
        }
        let in_query = format!("{path}?token={secret}&access_token={secret}");
        assert_eq!(ask(&world, method, &in_query, &[own])?.0, 401, "{method} {path} with the token in its query");
        let wrong =
            ["Authorization: Bearer wrong", &token.replace("Bearer", "Basic"), "Cookie: token=x"].map(str::to_owned);
        for wrong in wrong.iter().map(String::as_str).chain(["Authorization:", "X: no token"]) {
            assert_eq!(status(&[own, wrong])?, 401, "{method} {path} with {wrong:?}");
        }
        assert_eq!(status(&[own, &token, &token])?, 401, "{method} {path} with two tokens");
    }
    assert_eq!(ask(&world, "GET", "/health", &[own])?.0, 200);
    assert_eq!(ask(&world, "GET", "http://localhost/health", &[own])?.0, 200);
    assert_eq!(world.hub()?, hub, "it lives");
    assert!(hub.is_alive());
    Ok(())
}

/// Fault 65: what a page of another site can make a browser send.
#[test]
fn forms_and_sockets_of_other_sites_are_refused() -> Result<()> {
    let mut world = World::new()?;
    world.json(&["status"])?;
    world.serve("shop")?;
    let (hub, own, page) = (world.hub()?, "Host: 127.0.0.1", "Origin: http://page.example");
    let socket = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="];
    let before = world.json(&["status", "shop"])?;
    for (method, path) in &routes() {
        let path = path.replace("/x", "/shop");
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json"] {
            let form = format!("Content-Type: {kind}");
            assert_eq!(ask(&world, method, &path, &[own, page, &form])?.0, 403, "{method} {path} as {kind}");
        }
        let from_page = [&[own, page], &socket[..]].concat();
        assert_eq!(ask(&world, method, &path, &from_page)?.0, 403, "{method} {path} as a socket");
        let (status, answer) = ask(&world, method, &path, &[&[own], &socket[..]].concat())?;
        let open = matches!(path.as_str(), "/health" | "/v1/proof");
        assert!(status == 401 || (open && status != 101), "{method} {path} as a socket without a token: {answer}");
    }
    let after = world.json(&["status", "shop"])?;
    assert_eq!((&after["pid"], &after["processes"]), (&before["pid"], &before["processes"]));
    assert!(hub.is_alive() && world.hub()? == hub, "nothing was stopped");
    Ok(())
}

/// Fault 65: HTTP/2 is not spoken here, so its `:authority` names nobody.
#[test]
fn http2_without_asking_is_refused() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let (status, answer) = world.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0")?;
    assert!(matches!(status, 400 | 403 | 505 | 0) && !answer.contains("200 OK"), "{answer:?}");
    let token = token(&world)?;
    let upgrade = ["Host: rebound.example", &token, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"];
    assert_eq!(ask(&world, "GET", "/status", &upgrade)?.0, 403);
    let upgrade = [&["Host: localhost"], &upgrade[1..], &["HTTP2-Settings: AAMAAABkAAQAAP__"]].concat();
    assert_eq!(ask(&world, "GET", "/status", &upgrade)?.0, 200, "it is not upgraded");
    Ok(())
}

/// Fault 65: no state change on GET.
#[test]
fn reading_changes_nothing() -> Result<()> {
    let mut world = World::new()?;
    world.json(&["status"])?;
    world.serve("shop")?;
    let (hub, token) = (world.hub()?, token(&world)?);
    let before = world.json(&["status", "shop"])?;
    let changing = linchpin_hub::internals::routes().into_iter().filter(|route| route.methods == ["POST"]);
    for path in changing.map(|route| route.path.replace("{name}", "shop")) {
        for method in ["GET", "HEAD", "OPTIONS", "PUT"] {
            let (status, answer) = ask(&world, method, &path, &["Host: localhost", &token])?;
            assert_eq!(status, 405, "{method} {path}: {answer}");
        }
    }
    assert_eq!(world.json(&["status"])?["hub"]["pid"], hub.pid);
    let after = world.json(&["status", "shop"])?;
    assert_eq!((&after["pid"], &after["processes"]), (&before["pid"], &before["processes"]));
    Ok(())
}

#[test]
fn heads_are_bounded() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let health = |headers: &[&str]| ask(&world, "GET", "/health", headers);
    let large = format!("X-Large: {}", "x".repeat(48 << 10));
    assert_eq!(health(&["Host: localhost", &large])?.0, 200, "within the bound");
    let many: Vec<_> = (0..80).map(|number| format!("X-{number}: x")).collect();
    let many: Vec<&str> = std::iter::once("Host: localhost").chain(many.iter().map(String::as_str)).collect();
    assert_eq!(health(&many)?.0, 200, "within the bound");

    let too_large = format!("X-Large: {}", "x".repeat(160 << 10));
    let (status, answer) = health(&["Host: localhost", &too_large])?;
    // A client that still sends when the hub closes may get no more than the end of the connection.
    assert!(matches!(status, 431 | 0), "{answer}");
    let too_many = [&many[..], &["Y: y"; 30]].concat();
    let (status, answer) = health(&too_many)?;
    assert!(matches!(status, 431 | 0), "{answer}");
    assert_eq!(health(&["Host: localhost"])?.0, 200, "it cost one connection");
    Ok(())
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

#[test]
fn no_secret_is_in_any_log_or_answer() -> Result<()> {
    let mut world = World::with("LINCHPIN_LOG", "trace")?;
    world.serve("shop")?;
    let mut shim = Shim::open(&world)?;
    shim.call(1, "shop__echo", &json!({"text": "hello"}))?;
    shim.answer(&json!(1))?;
    shim.close()?;
    let mut secrets = vec![world.file()?["token"].as_str().context("no token")?.to_owned()];
    let mut records = Vec::new();
    files(&world.home().join("instances"), &mut records)?;
    for (path, text) in records.iter().filter(|(path, _)| path.ends_with(".json")) {
        let record: serde_json::Value = serde_json::from_str(text).with_context(|| path.clone())?;
        secrets.push(record["secret"].as_str().context("no secret")?.to_owned());
    }
    assert_eq!(secrets.len(), 2);
    let mut said = Vec::new();
    files(&world.home().join("logs"), &mut said)?;
    for arguments in [&["status"][..], &["status", "shop"], &["explain", "shop"], &["config", "show", "--origin"]] {
        said.push((arguments.join(" "), world.json(arguments)?.to_string()));
    }
    assert!(said.iter().any(|(path, text)| path.ends_with("hub.log") && text.contains("TRACE")), "it was a trace");
    for (path, text) in &said {
        assert!(secrets.iter().all(|secret| !text.contains(secret.as_str())), "{path} tells a secret");
    }
    Ok(())
}

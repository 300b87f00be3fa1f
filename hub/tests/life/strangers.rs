//! Whom the hub lets in, on every route, and what a head may be.

use crate::world::{Shim, World};
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;

const ROUTES: [(&str, &str); 15] = [
    ("GET", "/status"),
    ("GET", "/v1/instances"),
    ("GET", "/v1/instances/x"),
    ("GET", "/v1/instances/x/link"),
    ("GET", "/v1/instances/x/logs"),
    ("POST", "/v1/instances/x/restart"),
    ("POST", "/v1/instances/x/stop"),
    ("POST", "/v1/hub/stop"),
    ("GET", "/v1/hub/stop"),
    ("POST", "/mcp"),
    ("GET", "/mcp"),
    ("DELETE", "/mcp"),
    ("POST", "/i/x/mcp"),
    ("POST", "/i/x/y/mcp"),
    ("GET", "/nothing/here"),
];

/// A request with these header lines.
fn ask(world: &World, method: &str, path: &str, headers: &[&str]) -> Result<(u16, String)> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    world.raw(&format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"))
}

fn token(world: &World) -> Result<String> {
    Ok(format!("Authorization: Bearer {}", world.file()?["token"].as_str().context("no token")?))
}

#[test]
fn every_route_is_guarded() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let (hub, token, own) = (world.hub()?, token(&world)?, "Host: 127.0.0.1");
    let (foreign, page) = ("Host: rebound.example", "Origin: http://page.example");
    for (method, path) in ROUTES {
        let status = |headers: &[&str]| -> Result<u16> { Ok(ask(&world, method, path, headers)?.0) };
        assert_eq!(status(&[own])?, 401, "{method} {path} without a token");
        assert_eq!(status(&[own, "Authorization: Bearer wrong"])?, 401, "{method} {path} with another token");
        assert_eq!(status(&[foreign, &token])?, 403, "{method} {path} by another name");
        assert_eq!(status(&[own, &token, page])?, 403, "{method} {path} from a page");
        assert_eq!(status(&[&token])?, 403, "{method} {path} without a host");
    }
    assert_eq!(ask(&world, "GET", "/health", &[foreign])?.0, 403);
    assert_eq!(ask(&world, "GET", "/health", &[own, page])?.0, 403);
    let (status, health) = ask(&world, "GET", "/health", &[own])?;
    assert_eq!(status, 200);
    assert!(health.contains(&format!("\"pid\":{}", hub.pid)), "it lives: {health}");
    Ok(())
}

#[test]
fn reading_changes_nothing() -> Result<()> {
    let mut world = World::new()?;
    world.json(&["status"])?;
    world.serve("shop")?;
    let (hub, token) = (world.hub()?, token(&world)?);
    let before = world.json(&["status", "shop"])?;
    for path in ["/v1/hub/stop", "/v1/instances/shop/stop", "/v1/instances/shop/restart"] {
        for method in ["GET", "HEAD", "OPTIONS", "PUT"] {
            let (status, answer) = ask(&world, method, path, &["Host: localhost", &token])?;
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

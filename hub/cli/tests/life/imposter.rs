//! Somebody else listens at the hub's address: nothing that is secret, and no request, is ever sent there.

use crate::world::{Shim, World, until};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

/// Listens, answers everything with an empty object, and keeps what it was sent.
struct Imposter {
    got: mpsc::Receiver<String>,
    port: u16,
}

impl Imposter {
    /// Takes this port, 0 for any.
    fn at(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let port = listener.local_addr()?.port();
        let (keep, got) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, keep) = (stream?, keep.clone());
                std::thread::spawn(move || -> std::io::Result<()> {
                    let mut part = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut part) {
                        let _ = keep.send(String::from_utf8_lossy(&part[..length]).into_owned());
                        stream.write_all(
                            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
                        )?;
                    }
                    Ok(())
                });
            }
            std::io::Result::Ok(())
        });
        Ok(Self { got, port })
    }

    /// It was asked for a proof, and that was all that it was sent.
    fn got_nothing_but_a_nonce(&self, token: &str) -> Result<()> {
        let got: Vec<String> = self.got.try_iter().collect();
        ensure!(!got.is_empty(), "nobody came, so nothing was tested");
        for text in &got {
            ensure!(text.starts_with("GET /v1/proof HTTP/1.1\r\n") && text.contains("linchpin-nonce: "), "{text}");
            ensure!(!text.contains(token) && !text.to_lowercase().contains("authorization"), "{text}");
            ensure!(text.split("\r\n\r\n").count() == 2 && text.ends_with("\r\n\r\n"), "{text}");
        }
        Ok(())
    }
}

fn token(world: &World) -> Result<String> {
    Ok(world.file()?["token"].as_str().context("no token")?.to_owned())
}

/// Fault 66: a hub that stops has given up its port while its process still runs.
#[test]
fn who_takes_the_port_of_a_hub_that_drains_gets_nothing() -> Result<()> {
    let mut world = World::new()?;
    world.serve("slow")?;
    let mut shim = Shim::open(&world)?;
    shim.ping(1)?;
    let (hub, token, port) = (world.hub()?, token(&world)?, world.file()?["port"].as_u64().context("no port")?);
    let call = world.begin(&["call", "slow__late", r#"{"seconds": 4, "say": "done"}"#])?;
    world.called("slow", "late", 1)?;
    let stop = world.begin(&["hub", "stop"])?;
    let mut imposter = None;
    until("the port is given up", || {
        imposter = Some(Imposter::at(u16::try_from(port)?)?);
        Ok(())
    })?;
    assert!(hub.is_alive(), "it lets the call end");
    // The shim knows the hub of before, and its process runs; a new hub answers in the end.
    shim.ping(2)?;
    imposter.context("none")?.got_nothing_but_a_nonce(&token)?;
    assert_eq!(call.end()?.0, Some(0));
    assert_eq!(stop.end()?.0, Some(0));
    assert_ne!(world.file()?["port"], json!(port), "the next hub took another port");
    Ok(())
}

/// Fault 66: whatever the file says, a verb believes only a proof.
#[test]
fn a_verb_tells_who_is_not_the_hub_and_sends_nothing() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let (file, token) = (world.file()?, token(&world)?);
    let imposter = Imposter::at(0)?;
    let mut moved = file.clone();
    moved["port"] = json!(imposter.port);
    moved["url"] = json!(format!("http://127.0.0.1:{}", imposter.port));
    let write = |file: &serde_json::Value| std::fs::write(world.home().join("hub.json"), file.to_string());
    write(&moved)?;
    let verbs: [&[&str]; 6] =
        [&["status"], &["explain", "x"], &["logs", "x"], &["stop", "x"], &["tools"], &["call", "x", "{}"]];
    for verb in verbs {
        let (code, said) = world.begin(&[verb, &["--json"]].concat())?.end()?;
        assert_eq!((code, &said["code"]), (Some(5), &json!("hub_unreachable")), "{verb:?}: {said}");
        assert!(!said["next_steps"].to_string().is_empty());
    }
    let (_, said) = world.begin(&["status", "--json"])?.end()?;
    assert_eq!(said["observed"]["pid"], json!(std::process::id()), "who listens is named: {said}");
    world.begin(&["doctor", "--save", "-"])?.end()?;
    let health = |text: &String| text.starts_with("GET /health ") || text.starts_with("GET /v1/instances ");
    let got: Vec<String> = imposter.got.try_iter().collect();
    assert!(got.iter().any(health) && got.iter().all(|text| !text.contains(&token)), "{got:#?}");
    assert!(got.iter().all(|text| health(text) || text.starts_with("GET /v1/proof ")), "{got:#?}");
    write(&file)?;
    world.json(&["status"])?;
    Ok(())
}

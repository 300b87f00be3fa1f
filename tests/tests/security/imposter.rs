//! Another program listens at the address of the hub: no secret and no request is ever sent there.

use anyhow::{Context, Result, ensure};
use linchpin_tests::lab::Lab;
use linchpin_tests::wait::{PATIENCE, until};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

/// Listens, answers everything with an empty object, and keeps what it receives.
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

    /// Checks that it received a request for a proof and nothing else.
    fn got_nothing_but_a_nonce(&self, token: &str) -> Result<()> {
        let got: Vec<String> = self.got.try_iter().collect();
        ensure!(!got.is_empty(), "no connection was made, so nothing was tested");
        for text in &got {
            ensure!(text.starts_with("GET /v1/proof HTTP/1.1\r\n") && text.contains("linchpin-nonce: "), "{text}");
            ensure!(!text.contains(token) && !text.to_lowercase().contains("authorization"), "{text}");
            ensure!(text.split("\r\n\r\n").count() == 2 && text.ends_with("\r\n\r\n"), "{text}");
        }
        Ok(())
    }
}

/// Fault 66: a hub that stops has given up its port while its process still runs.
#[tokio::test]
async fn impostor_on_the_port_of_a_draining_hub_gets_nothing() -> Result<()> {
    let lab = Lab::on_any_port()?;
    lab.serve("slow").await?;
    let mut shim = lab.shim(&[]).await?;
    shim.ping().await?;
    let (hub, token, port) = (lab.hub_process()?, lab.hub_facts()?.token, lab.hub_port()?);
    let call = lab.begin(&["call", "slow__late", r#"{"seconds": 4, "say": "done"}"#])?;
    lab.called("slow", "late", 1).await?;
    let stop = lab.begin(&["hub", "stop"])?;
    let mut imposter = None;
    until("the port is released", PATIENCE, async || {
        imposter = Some(Imposter::at(port)?);
        Ok(())
    })
    .await?;
    assert!(hub.is_alive(), "it waits for the call");
    // The shim knows the old hub, whose process still runs; in the end a new hub answers.
    shim.ping().await?;
    imposter.context("none")?.got_nothing_but_a_nonce(&token)?;
    assert_eq!(call.end().await?.0, 0);
    assert_eq!(stop.end().await?.0, 0);
    assert_ne!(lab.hub_file()?["port"], json!(port), "the next hub took another port");
    shim.close().await?;
    lab.terminate().await
}

/// Fault 66: whatever the hub file says, a verb trusts only a proof.
#[tokio::test]
async fn verb_names_an_impostor_and_sends_it_nothing() -> Result<()> {
    let lab = Lab::on_any_port()?;
    lab.json(&["status"]).await?;
    let (file, token) = (lab.hub_file()?, lab.hub_facts()?.token);
    let imposter = Imposter::at(0)?;
    let mut moved = file.clone();
    moved["port"] = json!(imposter.port);
    moved["url"] = json!(format!("http://127.0.0.1:{}", imposter.port));
    let write = |file: &serde_json::Value| std::fs::write(lab.home().join("hub.json"), file.to_string());
    write(&moved)?;
    let verbs: [&[&str]; 6] =
        [&["status"], &["explain", "x"], &["logs", "x"], &["stop", "x"], &["tools"], &["call", "x", "{}"]];
    for verb in verbs {
        let (code, said) = lab.begin(&[verb, &["--json"]].concat())?.end().await?;
        assert_eq!((code, &said["code"]), (5, &json!("hub_unreachable")), "{verb:?}: {said}");
        assert!(!said["next_steps"].to_string().is_empty());
    }
    let (_, said) = lab.begin(&["status", "--json"])?.end().await?;
    assert_eq!(said["observed"]["pid"], json!(std::process::id()), "the listening process is not named: {said}");
    lab.begin(&["doctor", "--save", "-"])?.end().await?;
    let health = |text: &String| text.starts_with("GET /health ") || text.starts_with("GET /v1/instances ");
    let got: Vec<String> = imposter.got.try_iter().collect();
    assert!(got.iter().any(health) && got.iter().all(|text| !text.contains(&token)), "{got:#?}");
    assert!(got.iter().all(|text| health(text) || text.starts_with("GET /v1/proof ")), "{got:#?}");
    write(&file)?;
    lab.json(&["status"]).await?;
    lab.terminate().await
}

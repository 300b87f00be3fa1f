//! Clients that abuse HTTP: each loses its own connection and affects nothing else.

use anyhow::{Result, ensure};
use linchpin_tests::lab::Lab;
use linchpin_tests::wait::{PATIENCE, until};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// The limit of connections here.
const MOST: usize = 32;

fn connect(lab: &Lab) -> Result<TcpStream> {
    Ok(TcpStream::connect(("127.0.0.1", lab.hub_port()?))?)
}

/// Whether the other side ended this connection.
fn is_over(mut stream: &TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    match stream.read(&mut [0; 16]) {
        Ok(0) => Ok(true),
        Ok(_) => anyhow::bail!("it was answered"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Fault 58: slowloris.
#[tokio::test]
async fn slow_heads_do_not_block_other_clients() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_HUB_MAX_CONNECTIONS", &MOST.to_string());
    lab.json(&["status"]).await?;
    let mut waiting = Vec::new();
    for _ in 0..MOST {
        let mut stream = connect(&lab)?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")?;
        waiting.push(stream);
    }
    lab.json(&["status"]).await?;
    let (first, last) = (&waiting[0], &waiting[MOST - 1]);
    until("the connection that waited longest was closed", PATIENCE, async || {
        ensure!(is_over(first)?, "it still waits");
        Ok(())
    })
    .await?;
    ensure!(!is_over(last)?, "the hub answered before the slow ones had to end");
    lab.terminate().await
}

/// Fault 62: requests without an end occupy all connections.
#[tokio::test]
async fn busy_hub_refuses_one_more_connection_with_503() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_HUB_MAX_CONNECTIONS", "2");
    lab.json(&["status"]).await?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        lab.hub_facts()?.token
    );
    let mut busy: Vec<TcpStream> = Vec::new();
    until("one more is refused", PATIENCE, async || {
        // A connection whose head was not read yet may have been closed for the next one; it is opened again.
        busy.retain(|stream| is_over(stream).is_ok_and(|over| !over));
        while busy.len() < 2 {
            let mut stream = connect(&lab)?;
            stream.write_all(head.as_bytes())?;
            busy.push(stream);
        }
        let (status, answer) = lab.raw("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        ensure!(status == 503 && answer.contains("retry-after: 1"), "{answer}");
        ensure!(answer.contains("LINCHPIN_HUB_MAX_CONNECTIONS=4"), "{answer}");
        Ok(())
    })
    .await?;
    drop(busy);
    until("there is room again", PATIENCE, async || lab.json(&["status"]).await.map(drop)).await?;
    lab.terminate().await
}

/// Fault 58: slow body.
#[tokio::test]
async fn missing_body_times_out() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_MESSAGE_TIMEOUT_MS", "300");
    lab.json(&["status"]).await?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        lab.hub_facts()?.token
    );
    let (status, answer) = lab.raw(&head).await?;
    assert_eq!(status, 408, "{answer}");
    ensure!(answer.contains("\"timed_out\"") && answer.contains("300 ms"), "{answer}");
    lab.terminate().await
}

/// Fault 59. Each of these hides a second request that a lenient parser would find, and which would stop the hub.
#[tokio::test]
async fn smuggled_requests_are_not_executed() -> Result<()> {
    let lab = Lab::new()?;
    lab.json(&["status"]).await?;
    let hub = lab.hub_process()?;
    let token = lab.hub_facts()?.token;
    let hidden = format!("POST /v1/hub/stop HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let length = hidden.len();
    // The second word of each is the expected beginning of the status; the connection may also end without an answer.
    let heads = [
        ("Content-Length: 0\r\nContent-Length: 5\r\n\r\n".to_owned(), "400"),
        ("Content-Length: +0\r\n\r\n".to_owned(), "400"),
        ("Content-Length: -1\r\n\r\n".to_owned(), "400"),
        ("Content-Length: 99999999999999999999\r\n\r\n".to_owned(), "400"),
        ("Transfer-Encoding: identity\r\n\r\n".to_owned(), "400"),
        ("Transfer-Encoding: chunked, identity\r\n\r\n".to_owned(), "400"),
        ("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(), "400"),
        ("X: a\0b\r\n\r\n".to_owned(), "400"),
        ("X: a\r\n\tfolded: b\r\n\r\n".to_owned(), "400"),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n"), "4"),
        ("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned(), "4"),
        ("Transfer-Encoding: chunked\r\n\r\n5;\n\r\n".to_owned(), "4"),
        ("Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n".to_owned(), "4"),
    ];
    for (head, status) in heads {
        let first = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        );
        let (seen, answer) = lab.raw(&format!("{first}{head}{hidden}")).await?;
        ensure!(seen == 0 || seen.to_string().starts_with(status), "{head:?}: {answer}");
        ensure!(answer.matches("HTTP/1.1 ").count() <= 1, "{head:?} was read as two requests: {answer}");
        assert_eq!(lab.json(&["status"]).await?["hub"]["pid"], hub.pid, "{head:?} stopped the hub");
    }
    lab.terminate().await
}

/// Fault 59: 10,000 header fields, a body of a gigabyte that is only announced, and noise.
#[tokio::test]
async fn oversized_requests_are_refused_before_they_are_read() -> Result<()> {
    let lab = Lab::new()?;
    lab.json(&["status"]).await?;
    let (hub, token) = (lab.hub_process()?, lab.hub_facts()?.token);
    let many = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let large = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1 << 20));
    for (what, request) in [("fields", many), ("path", large), ("noise", "\u{1}\u{2}\u{3}\r\n\r\n".repeat(1000))] {
        let (status, answer) = lab.raw(&request).await?;
        // A client that still sends when the hub closes may only see the end of the connection.
        ensure!(matches!(status, 0 | 400 | 414 | 431), "{what}: {answer}");
    }
    let huge = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        1 << 30
    );
    let (status, answer) = lab.raw(&huge).await?;
    assert_eq!(status, 413, "{answer}");
    assert_eq!(lab.json(&["status"]).await?["hub"]["pid"], hub.pid);
    lab.terminate().await
}

//! Clients that mean harm, or might as well: each costs its own connection and nothing else.

use crate::world::{World, until};
use anyhow::{Context, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Connections that the hub serves at once here.
const MOST: usize = 32;

fn connect(world: &World) -> Result<TcpStream> {
    let port = world.file()?["port"].as_u64().context("no port")?;
    Ok(TcpStream::connect(("127.0.0.1", u16::try_from(port)?))?)
}

fn token(world: &World) -> Result<String> {
    Ok(world.file()?["token"].as_str().context("no token")?.to_owned())
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
#[test]
fn connections_that_only_wait_shut_nobody_out() -> Result<()> {
    let world = World::with("LINCHPIN_HUB_MAX_CONNECTIONS", &MOST.to_string())?;
    world.json(&["status"])?;
    let mut waiting = Vec::new();
    for _ in 0..MOST {
        let mut stream = connect(&world)?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")?;
        waiting.push(stream);
    }
    world.json(&["status"])?;
    let (first, last) = (&waiting[0], &waiting[MOST - 1]);
    until("the one that waited longest gave way", || {
        ensure!(is_over(first)?, "it still waits");
        Ok(())
    })?;
    ensure!(!is_over(last)?, "the hub answered before the slow ones had to end");
    Ok(())
}

/// Fault 62: streams that nobody reads take all places.
#[test]
fn when_all_are_busy_one_more_is_told_so() -> Result<()> {
    let world = World::with("LINCHPIN_HUB_MAX_CONNECTIONS", "2")?;
    world.json(&["status"])?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        token(&world)?
    );
    let mut busy: Vec<TcpStream> = Vec::new();
    until("one more is refused", || {
        // One whose head was not read yet when the next came had to leave; it comes again.
        busy.retain(|stream| is_over(stream).is_ok_and(|over| !over));
        while busy.len() < 2 {
            let mut stream = connect(&world)?;
            stream.write_all(head.as_bytes())?;
            busy.push(stream);
        }
        let (status, answer) = world.raw("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        ensure!(status == 503 && answer.contains("retry-after: 1"), "{answer}");
        ensure!(answer.contains("LINCHPIN_HUB_MAX_CONNECTIONS=4"), "{answer}");
        Ok(())
    })?;
    drop(busy);
    until("there is room again", || world.json(&["status"]).map(drop))
}

/// Fault 58: slow body.
#[test]
fn a_body_that_does_not_come_is_given_up() -> Result<()> {
    let world = World::with("LINCHPIN_GATEWAY_MESSAGE_TIMEOUT_MS", "300")?;
    world.json(&["status"])?;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        token(&world)?
    );
    let (status, answer) = world.raw(&head)?;
    assert_eq!(status, 408, "{answer}");
    ensure!(answer.contains("\"timed_out\"") && answer.contains("300 ms"), "{answer}");
    Ok(())
}

/// Fault 59. Each of these hides a second request, which would stop the hub, where a lenient reader would find one.
#[test]
fn no_request_hides_in_another() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let hub = world.hub()?;
    let token = token(&world)?;
    let hidden = format!("POST /v1/hub/stop HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let length = hidden.len();
    // The second word of each is what an answer may begin with; without an answer the connection just ends.
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
        let (seen, answer) = world.raw(&format!("{first}{head}{hidden}"))?;
        ensure!(seen == 0 || seen.to_string().starts_with(status), "{head:?}: {answer}");
        ensure!(answer.matches("HTTP/1.1 ").count() <= 1, "{head:?} is taken for two requests: {answer}");
        assert_eq!(world.json(&["status"])?["hub"]["pid"], hub.pid, "{head:?} stopped the hub");
    }
    Ok(())
}

/// Fault 59: 10,000 fields, a gigabyte that is only announced, and noise.
#[test]
fn what_is_too_much_is_refused_before_it_is_read() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let (hub, token) = (world.hub()?, token(&world)?);
    let many = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let large = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1 << 20));
    for (what, request) in [("fields", many), ("path", large), ("noise", "\u{1}\u{2}\u{3}\r\n\r\n".repeat(1000))] {
        let (status, answer) = world.raw(&request)?;
        // A client that still sends when the hub closes may get no more than the end of the connection.
        ensure!(matches!(status, 0 | 400 | 414 | 431), "{what}: {answer}");
    }
    let huge = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        1 << 30
    );
    let (status, answer) = world.raw(&huge)?;
    assert_eq!(status, 413, "{answer}");
    assert_eq!(world.json(&["status"])?["hub"]["pid"], hub.pid);
    Ok(())
}

//! HTTP/1.1 by hand: connections that send what no client library would, and read only when they are told to.
//!
//! Nothing is read unless a test asks for it, so the test decides what stays in the buffers. No request is repeated.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// One connection to the hub.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The status line and the header lines, with names in lower case.
    pub head: String,
}

impl Answer {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(of, _)| *of == name)
            .map(|(_, value)| value.trim())
    }
}

impl Connection {
    /// Opens a connection to this address.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn open(url: &str) -> Result<Self> {
        let address = url.trim_start_matches("http://");
        Ok(Self { stream: TcpStream::connect(address).await?, buffer: Vec::new() })
    }

    /// The local port.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn port(&self) -> Result<u16> {
        Ok(self.stream.local_addr()?.port())
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// If the other side closed, or does not read them in time.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(timeout(ANSWER, self.stream.write_all(bytes)).await??)
    }

    /// Sends a POST.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn post(&mut self, path: &str, token: &str, session: Option<&str>, body: &str) -> Result<()> {
        let session = session.map_or_else(String::new, |session| format!("Mcp-Session-Id: {session}\r\n"));
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{session}\
             Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body.as_bytes()].concat()).await
    }

    /// Sends a GET for a stream.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn get(&mut self, path: &str, token: &str, session: &str) -> Result<()> {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nMcp-Session-Id: {session}\r\n\
             Accept: text/event-stream\r\n\r\n"
        );
        self.send(head.as_bytes()).await
    }

    /// Whether a part of an answer has arrived.
    pub async fn is_answered(&mut self) -> bool {
        timeout(Duration::from_millis(200), self.stream.peek(&mut [0])).await.is_ok()
    }

    /// Reads the head of the next answer.
    ///
    /// # Errors
    /// If the connection ends before.
    pub async fn head(&mut self) -> Result<Answer> {
        timeout(ANSWER, async {
            loop {
                if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    let head = self.buffer.drain(..end + 4).collect();
                    return read_head(&String::from_utf8(head)?);
                }
                ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection ended");
            }
        })
        .await?
    }

    /// Reads the next answer, which must have a `Content-Length`.
    ///
    /// # Errors
    /// As [`Connection::head`].
    pub async fn answer(&mut self) -> Result<Answer> {
        let answer = self.head().await?;
        let length: usize = answer.header("content-length").context("no length")?.parse()?;
        timeout(ANSWER, async {
            while self.buffer.len() < length {
                ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection ended");
            }
            self.buffer.drain(..length);
            Ok(answer)
        })
        .await?
    }
}

fn read_head(text: &str) -> Result<Answer> {
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let lower = |line: &str| match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}\n", name.to_ascii_lowercase()),
        None => format!("{line}\n"),
    };
    Ok(Answer { status, head: text.lines().map(lower).collect() })
}

/// Whether this process has an established connection from this port.
///
/// # Errors
/// If there is no such process.
pub fn established(pid: u32, port: u16) -> Result<bool> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let peer = format!(":{port:04X}");
    Ok(table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(2);
        // The remote address, and the state of an established connection (01).
        fields.next().is_some_and(|remote| remote.ends_with(&peer)) && fields.next() == Some("01")
    }))
}

/// Raises the limit of open files of this process to the maximum and returns it.
///
/// # Errors
/// If the system call fails.
pub fn most_files() -> Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

//! Verifies on each new connection that the peer is the hub, before anything else is sent.
//!
//! The address in `hub.json` may belong to another program by now: a hub that stops gives up its port while its process
//! is still running, and another user may take the port. An unverified peer receives a nonce, but no token and no
//! request. Every connection is verified separately, see [`proof`]. The verification has no time limit of its own,
//! because a hub that is stopped or busy may take long; it ends when the process of the hub ends.

use hyper_util::rt::TokioIo;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::hub_file::proof::{self, ProofAnswer};
use linchpin_shared::port::{self, Holder};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::exited;
use linchpin_shared::protocol::hello;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tower::{Layer, Service};

/// The longest answer, in bytes. An answer of the hub has about three hundred.
const MAX_ANSWER: usize = 8 << 10;

type BoxError = Box<dyn Error + Send + Sync>;

/// The peer is not the hub, or has not proved that it is.
#[derive(Debug, thiserror::Error)]
#[error("the program that listens at {url} has not proved that it is the hub ({why}); nothing was sent to it")]
pub(super) struct UnverifiedPeer {
    url: String,
    why: String,
}

impl UnverifiedPeer {
    /// Finds it among the causes of an error.
    pub(super) fn find_in<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        match error.downcast_ref() {
            Some(peer) => Some(peer),
            None => Self::find_in(error.source()?),
        }
    }

    /// Returns a problem that names the peer, as far as the system shows it.
    pub(super) fn problem(&self, hub: &HubFile) -> Problem {
        let problem = Problem::new(Code::HubUnreachable, self.to_string())
            .seen("url", self.url.clone())
            .seen("hub's pid", hub.process.pid);
        let problem = match port::holder(hub.port).ok().flatten() {
            Some(Holder { process: Some(process), command, .. }) => problem
                .seen("pid", process.pid)
                .seen("command", command.unwrap_or_else(|| process.executable.display().to_string())),
            Some(Holder { process: None, uid, .. }) => problem.seen("held by user", uid),
            None => problem,
        };
        problem
            .next("run the command again")
            .next(format!(
                "if it fails again: kill {}; linchpin status    (starts a hub on another port)",
                hub.process.pid
            ))
            .next("linchpin doctor")
    }
}

/// Verifies every connection that the inner connector makes.
#[derive(Clone)]
pub(super) struct VerifyHub(Arc<HubFile>);

impl VerifyHub {
    /// Verifies connections to this hub.
    pub(super) fn new(hub: &HubFile) -> Self {
        Self(Arc::new(hub.clone()))
    }

    /// Asks the peer for the proof, and checks it.
    async fn verify(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), String> {
        let HubFile { url, token, process, .. } = &*self.0;
        let nonce = hello::random().map_err(|error| error.to_string())?;
        let answered = async {
            let host = url.strip_prefix("http://").unwrap_or(url);
            let (path, header) = (proof::PATH, proof::NONCE);
            let question = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{header}: {nonce}\r\n\r\n");
            stream.write_all(question.as_bytes()).await.map_err(|error| error.to_string())?;
            read_answer(stream).await
        };
        let answer = tokio::select! {
            answer = answered => answer?,
            () = exited(process) => return Err("the hub has died".to_owned()),
        };
        if proof::verify(token, &nonce, url, &answer.proof) { Ok(()) } else { Err("its proof is wrong".to_owned()) }
    }
}

/// Reads exactly one answer, because the connection is used for requests afterwards.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<ProofAnswer, String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(body) = body(&bytes)? {
            return serde_json::from_slice(body).map_err(|_| "its answer is not that of a hub".to_owned());
        }
        if bytes.len() >= MAX_ANSWER {
            return Err("its answer is too long".to_owned());
        }
        let mut part = [0; 1024];
        match stream.read(&mut part).await {
            Ok(0) => return Err("it closed the connection".to_owned()),
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Returns the body of a successful answer that has arrived completely; `None` while some of it is missing.
fn body(answer: &[u8]) -> Result<Option<&[u8]>, String> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("http/1.1 200 ") {
        return Err(format!("it answered {:?}", status.chars().take(40).collect::<String>()));
    }
    let length = lines.find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let length = length.ok_or("its answer has no length")?;
    match answer[end + 4..].len() {
        got if got > length || length > MAX_ANSWER => {
            Err("its answer has a different length than it declares".to_owned())
        }
        got => Ok((got == length).then_some(&answer[end + 4..])),
    }
}

impl<S> Layer<S> for VerifyHub {
    type Service = VerifyHubService<S>;

    fn layer(&self, inner: S) -> VerifyHubService<S> {
        VerifyHubService { inner, verify: self.clone() }
    }
}

/// A connector whose connections are verified.
#[derive(Clone)]
pub(super) struct VerifyHubService<S> {
    inner: S,
    verify: VerifyHub,
}

impl<S, To> Service<To> for VerifyHubService<S>
where
    S: Service<To, Error = BoxError>,
    S::Response: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, to: To) -> Self::Future {
        let (connecting, verify) = (self.inner.call(to), self.verify.clone());
        Box::pin(async move {
            let mut stream = TokioIo::new(connecting.await?);
            match verify.verify(&mut stream).await {
                Ok(()) => Ok(stream.into_inner()),
                Err(why) => Err(UnverifiedPeer { url: verify.0.url.clone(), why }.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_or_incomplete_or_invalid() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(body(whole).unwrap(), Some(&b"{}"[..]));
        for part in 0..whole.len() {
            assert_eq!(body(&whole[..part]).unwrap(), None);
        }
        for wrong in [
            "HTTP/1.1 401 No\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}",
        ] {
            assert!(body(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}

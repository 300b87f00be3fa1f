//! What a simulated instance answers.

use crate::echo;
use anyhow::Result;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use linchpin_shared::protocol::hello::{self, Exchange, Hello, Proof, Role, Welcome};
use linchpin_shared::protocol::{FORMAT, path};
use linchpin_shared::registry::record::Record;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The nonces of the last hello on a connection: that of the hub, and its answer.
type Nonces = Arc<tokio::sync::Mutex<Option<[String; 2]>>>;

pub(super) async fn accept(listener: TcpListener, us: Arc<Record>, cut: watch::Sender<()>, accepted: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(connection(stream, Arc::clone(&us), cut.subscribe()));
    }
}

async fn connection(stream: TcpStream, us: Arc<Record>, mut cut: watch::Receiver<()>) {
    // Its end is then a reset, as if the process had died with unread bytes.
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    let _ = stream.set_nodelay(true);
    let nonces = Nonces::default();
    let service = service_fn(move |request| answer(Arc::clone(&us), Arc::clone(&nonces), request));
    let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = serving => {}
        _ = cut.changed() => {}
    }
}

async fn answer(us: Arc<Record>, nonces: Nonces, request: Request<Incoming>) -> Result<Answer> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(match head.uri.path() {
        path::HELLO => {
            let (welcome, used) = welcome(&us, &serde_json::from_slice(&body)?)?;
            *nonces.lock().await = Some(used);
            whole(StatusCode::OK, serde_json::to_vec(&welcome)?)
        }
        path::PROVE => {
            let proof: Proof = serde_json::from_slice(&body)?;
            let used = nonces.lock().await.take();
            let proved = used.is_some_and(|used| exchange(&us, &used).verify(Role::Hub, &us.secret, &proof.proof));
            whole(if proved { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN }, Vec::new())
        }
        path::VITALS if head.uri.query().is_some() => {
            let lines = stream::once(std::future::ready(Ok(Frame::data(vitals(&us))))).chain(stream::pending());
            Response::new(StreamBody::new(lines).boxed_unsync())
        }
        path::VITALS => whole(StatusCode::OK, vitals(&us)),
        mcp if mcp.strip_prefix(path::MCP) == Some("echo") => serve_mcp(&head.method, &body)?,
        "/echo" => whole(StatusCode::OK, body),
        _ => whole(StatusCode::NOT_FOUND, Vec::new()),
    })
}

fn serve_mcp(method: &Method, body: &Bytes) -> Result<Answer> {
    if method != Method::POST {
        return Ok(whole(StatusCode::METHOD_NOT_ALLOWED, Vec::new()));
    }
    let message: Value = serde_json::from_slice(body)?;
    let Some(answer) = echo::answer(&message, "echo")? else { return Ok(whole(StatusCode::ACCEPTED, Vec::new())) };
    let mut response = whole(StatusCode::OK, serde_json::to_vec(&answer)?);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn exchange<'a>(us: &'a Record, [hub, ours]: &'a [String; 2]) -> Exchange<'a> {
    Exchange { hub_nonce: hub, instance_nonce: ours, id: us.id, generation: us.generation, endpoint: &us.endpoint }
}

fn welcome(us: &Record, hello: &Hello) -> Result<(Welcome, [String; 2])> {
    let used = [hello.nonce.clone(), hello::random()?];
    let welcome = Welcome {
        format: FORMAT,
        nonce: used[1].clone(),
        proof: exchange(us, &used).prove(Role::Instance, &us.secret),
        id: us.id,
        generation: us.generation,
        version: us.version.clone(),
        capabilities: Vec::new(),
    };
    Ok((welcome, used))
}

fn vitals(us: &Record) -> Bytes {
    let server = json!({"name": "echo", "transport": "stdio", "up": true, "epoch": 1});
    let vitals = json!({"format": FORMAT, "generation": us.generation, "started_at": us.registered_at,
                        "processes": [], "servers": [server]});
    Bytes::from(format!("{vitals}\n"))
}

fn whole(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let body = if body.is_empty() { Empty::new().boxed_unsync() } else { Full::new(body).boxed_unsync() };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

//! What a link adds to a request: the same request to the same instance over a link and over a plain hyper connection,
//! in turns, each on its own thread, so that the CPU time of the thread is that of the client alone.

use crate::stats::Samples;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linchpin_hub::internals::{Body, Discovery, LinkHandle, Links};
use linchpin_shared::home::Home;
use linchpin_shared::protocol::hello::{Exchange, Hello, Proof, Role, Welcome};
use linchpin_shared::protocol::{self, path};
use linchpin_shared::registry::Registry;
use linchpin_shared::registry::record::Record;
use linchpin_shared::settings::Settings;
use linchpin_tests::sim::Sim;
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The number of turns of each client, and of requests in a turn, one after the other.
const TURNS: usize = 21;
const REQUESTS: u32 = 1000;
const WITHIN: Duration = Duration::from_secs(10);

/// The cost of a request, by turn.
#[derive(Default)]
pub(crate) struct Cost {
    pub(crate) latency: Samples,
    pub(crate) cpu: Samples,
}

/// The cost of the plain client and of the link.
pub(crate) async fn run() -> Result<(Cost, Cost)> {
    let dir = tempfile::tempdir()?;
    let home = Home::at(dir.path().join("home"));
    home.prepare().map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let sim = Sim::start(&home, "sim").await?;
    let record = sim.record().clone();
    // The instance answers on the other threads of the benchmark.
    tokio::task::spawn_blocking(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(compare(&home, &record))
    })
    .await?
}

async fn compare(home: &Home, record: &Record) -> Result<(Cost, Cost)> {
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let _ends = cancel.clone().drop_guard();
    let settings = Settings::default();
    let discovery = Discovery::start(Registry::new(home), (&settings).into(), cancel.clone(), &tasks);
    let links = Links::start(&discovery, &settings.link, cancel, &tasks);
    let handle = found(&links).await?;
    let bare = Bare::connect(record).await?;
    let (mut plain, mut linked) = (Cost::default(), Cost::default());
    for turn in 0..=TURNS {
        let bare = turn_of(async || bare.get(path::VITALS).await.map(drop)).await?;
        let link = turn_of(async || over(&handle).await).await?;
        // The first turn warms up.
        if turn > 0 {
            plain.add(bare);
            linked.add(link);
        }
    }
    Ok((plain, linked))
}

impl Cost {
    fn add(&mut self, (latency, cpu): (Duration, Duration)) {
        self.latency.add(latency);
        self.cpu.add(cpu);
    }
}

/// One turn: the time of a request, and its CPU time on this thread.
async fn turn_of(request: impl AsyncFn() -> Result<()>) -> Result<(Duration, Duration)> {
    let (began, cpu) = (Instant::now(), thread_time());
    for _ in 0..REQUESTS {
        request().await?;
    }
    Ok((began.elapsed() / REQUESTS, (thread_time() - cpu) / REQUESTS))
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

async fn found(links: &Links) -> Result<LinkHandle> {
    let mut handles = links.watch();
    drop(tokio::time::timeout(WITHIN, handles.wait_for(|all| !all.is_empty())).await??);
    let handle = links.get("sim").context("it is not found")?;
    handle.ready(WITHIN).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(handle)
}

async fn over(handle: &LinkHandle) -> Result<()> {
    let body: Body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(path::VITALS).body(body)?;
    let response = handle.request(request).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(response.status().is_success(), "{}", response.status());
    response.into_body().collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(())
}

/// A hyper connection after its hello.
struct Bare {
    sender: SendRequest<Full<Bytes>>,
    origin: String,
}

impl Bare {
    async fn connect(record: &Record) -> Result<Self> {
        let stream = TcpStream::connect(record.address().map_err(|problem| anyhow::anyhow!("{problem}"))?).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let bare = Self { sender, origin: record.endpoint.clone() };
        let hello = Hello { format: protocol::FORMAT, nonce: "bench".to_owned(), version: "bench".to_owned() };
        let welcome: Welcome = bare.post(path::HELLO, &hello).await?.context("no welcome")?;
        let exchange = Exchange {
            hub_nonce: &hello.nonce,
            instance_nonce: &welcome.nonce,
            id: record.id,
            generation: record.generation,
            endpoint: &record.endpoint,
        };
        let proof = Proof { proof: exchange.prove(Role::Hub, &record.secret) };
        bare.post::<serde_json::Value>(path::PROVE, &proof).await?;
        Ok(bare)
    }

    async fn get(&self, path: &str) -> Result<Bytes> {
        self.send(Request::get(format!("{}{path}", self.origin)).body(Full::default())?).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<Option<T>> {
        let request = Request::post(format!("{}{path}", self.origin)).header("content-type", "application/json");
        let answer = self.send(request.body(serde_json::to_vec(body)?.into())?).await?;
        Ok(if answer.is_empty() { None } else { Some(serde_json::from_slice(&answer)?) })
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Bytes> {
        let response = self.sender.clone().send_request(request).await?;
        ensure!(response.status().is_success(), "{}", response.status());
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

//! A connection over a pipe in memory with paused time: hours of idling, and a peer that is stopped for hours.

use crate::link::activity::{ActivityTracked, LastRead};
use crate::link::body::empty;
use crate::link::dial::handshake;
use crate::link::tcp::DialLimits;
use http::{Request, Response};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: DialLimits =
    DialLimits { dial: SECOND, hello: SECOND, ping_interval: Duration::from_secs(2), ping_timeout: SECOND, streams: 8 };

/// Serves the pipe. While it is stopped, it neither reads nor writes, and keeps its state.
async fn peer(pipe: DuplexStream, mut stopped: watch::Receiver<bool>) {
    let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(empty())));
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(pipe), service);
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            _ = &mut serving => return,
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        if stopped.wait_for(|stopped| !*stopped).await.is_err() {
            return;
        }
    }
}

/// Faults 5, 48 and 51: on an idle connection, bytes arrive with every PING. A connection whose peer was stopped for
/// hours is kept, and the request that was sent meanwhile is answered.
#[tokio::test(start_paused = true)]
async fn a_connection_survives_hours_of_idling_and_of_silence() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(peer(theirs, stopped));
    let last_read = LastRead::now();
    let (mut sender, connection) = handshake(ActivityTracked::new(ours, last_read.clone()), &LIMITS).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3600 {
        sleep(SECOND).await;
        assert!(last_read.at().elapsed() <= LIMITS.ping_interval, "{:?}", last_read.at().elapsed());
    }

    stop.send_replace(true);
    // The exchange that was under way is complete by then.
    sleep(SECOND).await;
    let silence = last_read.at();
    let asked = tokio::spawn(sender.send_request(Request::get("http://peer/").body(empty()).unwrap()));
    sleep(4 * 3600 * SECOND).await;
    assert_eq!(last_read.at(), silence, "a stopped peer is not last_read");
    assert!(!connection.is_finished() && !asked.is_finished(), "and its connection is kept");

    stop.send_replace(false);
    let began = Instant::now();
    assert!(asked.await.unwrap().unwrap().status().is_success());
    assert!(last_read.at() >= began && !connection.is_finished());
}

//! Paused time over a pipe in memory: what hours of idling and minutes of a stopped peer do to one connection.

use crate::link::dial::{Limits, handshake};
use crate::link::hearing::{Heard, Hearing};
use crate::link::lane::empty;
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
const LIMITS: Limits =
    Limits { dial: SECOND, hello: SECOND, ping_interval: Duration::from_secs(2), ping_timeout: SECOND, streams: 8 };

/// Serves until it is stopped; while it is stopped it neither reads nor writes, and keeps what it has.
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

/// Faults 5, 48 and 51: an idle connection is heard at every PING; one whose peer was stopped for hours is still there,
/// and what was sent meanwhile is answered.
#[tokio::test(start_paused = true)]
async fn a_connection_outlives_hours_of_idling_and_of_silence() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(peer(theirs, stopped));
    let heard = Heard::now();
    let (mut sender, connection) = handshake(Hearing::new(ours, heard.clone()), &LIMITS).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3600 {
        sleep(SECOND).await;
        assert!(heard.last().elapsed() <= LIMITS.ping_interval, "{:?}", heard.last().elapsed());
    }

    stop.send_replace(true);
    // Whatever was under way is through.
    sleep(SECOND).await;
    let silence = heard.last();
    let asked = tokio::spawn(sender.send_request(Request::get("http://peer/").body(empty()).unwrap()));
    sleep(4 * 3600 * SECOND).await;
    assert_eq!(heard.last(), silence, "a stopped peer is not heard");
    assert!(!connection.is_finished() && !asked.is_finished(), "and its connection is kept");

    stop.send_replace(false);
    let began = Instant::now();
    assert!(asked.await.unwrap().unwrap().status().is_success());
    assert!(heard.last() >= began && !connection.is_finished());
}

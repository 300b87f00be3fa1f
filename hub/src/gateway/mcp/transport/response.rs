//! How an answer travels: as one JSON document, or as a stream that ends with it.
//!
//! Owns [`PendingResponse`], a request under way. Invariant: the answer is JSON if it is the first message of its request and
//! comes soon; otherwise a stream, whose comments keep the connection from being taken for dead.
//! A client that goes away drops the request, unless it has a session and its stream has begun: that goes on, and can be
//! taken up again. Never: buffers more than a client reads, beyond a small bound.

use crate::gateway::mcp::protocol::errors::RpcError;
use crate::gateway::mcp::protocol::sse;
use crate::gateway::mcp::protocol::version::Version;
use crate::gateway::mcp::session::client::Client;
use crate::gateway::mcp::session::outbox::OutboxReader;
use crate::gateway::mcp::session::replay;
use crate::gateway::mcp::session::replay::ReplayBuffer;
use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use linchpin_shared::problem::{Code, Problem};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// After this an answer becomes a stream. What a client has a stream of it can take up again when a connection breaks or
/// the hub is started again; without one SDKs lose the call, and some of them their session. And many HTTP clients wait
/// no longer than 30 s or so for headers.
const SOON: Duration = Duration::from_secs(1);

/// An answer: none if the request was cancelled.
type AnswerFuture = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// A request under way.
pub(crate) struct PendingResponse {
    answer: Option<AnswerFuture>,
    messages: mpsc::Receiver<String>,
    last: Option<Option<String>>,
    status: fn(&str) -> StatusCode,
    /// Who may take its stream up again, and the id of the request.
    client: Option<(Arc<Client>, String)>,
}

/// What comes next of a request.
enum ResponseStep {
    Message(String),
    Answer(Option<String>),
}

impl PendingResponse {
    /// A request whose other messages come out of `messages`.
    pub(crate) fn new(answer: AnswerFuture, messages: mpsc::Receiver<String>) -> Self {
        Self { answer: Some(answer), messages, last: None, status: |_| StatusCode::OK, client: None }
    }

    /// With this status for an answer that travels alone.
    pub(crate) fn with_status(self, status: fn(&str) -> StatusCode) -> Self {
        Self { status, ..self }
    }

    /// On a stream that this client can take up again, for its request of this id.
    pub(crate) fn resumable(self, client: &Arc<Client>, id: String) -> Self {
        Self { client: Some((Arc::clone(client), id)), ..self }
    }

    /// Answers.
    pub(crate) async fn respond(mut self, may_stream: bool) -> Response {
        if !may_stream {
            return self.whole().await;
        }
        match timeout(SOON, self.step()).await {
            Ok(Some(ResponseStep::Answer(Some(answer)))) => json_with((self.status)(&answer), answer),
            Ok(Some(ResponseStep::Answer(None)) | None) => events(Body::empty()),
            Ok(Some(ResponseStep::Message(first))) => self.begin_stream(Some(first)),
            Err(_elapsed) => self.begin_stream(None),
        }
    }

    fn begin_stream(mut self, first: Option<String>) -> Response {
        let Some((client, id)) = self.client.take() else {
            return self.streamed(first.map_or(sse::KEEP_ALIVE, |first| sse::encode(&first)));
        };
        let log = client.streams.open(&id);
        // Older clients take an event without data for a message.
        if client.version >= Version::V2025_11_25 {
            log.prime();
        }
        let reader = ReplayBuffer::read(&log, 1);
        tokio::spawn(self.kept(first, log));
        resumed(reader)
    }

    /// Keeps what comes, whether somebody reads it or not.
    async fn kept(mut self, mut next: Option<String>, log: Arc<ReplayBuffer>) {
        loop {
            if let Some(message) = next.take() {
                log.push(&message).await;
            }
            match self.step().await {
                Some(ResponseStep::Message(message) | ResponseStep::Answer(Some(message))) => next = Some(message),
                Some(ResponseStep::Answer(None)) | None => return log.end(),
            }
        }
    }

    /// For a client that takes no stream: the answer alone.
    async fn whole(mut self) -> Response {
        loop {
            match self.step().await {
                Some(ResponseStep::Message(_)) => {}
                Some(ResponseStep::Answer(Some(answer))) => return json_with((self.status)(&answer), answer),
                Some(ResponseStep::Answer(None)) | None => return StatusCode::NO_CONTENT.into_response(),
            }
        }
    }

    fn streamed(self, first: Bytes) -> Response {
        let begun = (Some(first), self);
        let rest = stream::unfold(begun, |(first, mut under)| async move {
            let event = match first {
                Some(event) => event,
                None => under.event().await?,
            };
            Some((Ok::<_, Infallible>(event), (None, under)))
        });
        events(Body::from_stream(rest))
    }

    /// The next event of the stream.
    async fn event(&mut self) -> Option<Bytes> {
        match timeout_at(Instant::now() + sse::KEEP_ALIVE_EVERY, self.step()).await {
            Ok(Some(ResponseStep::Message(message) | ResponseStep::Answer(Some(message)))) => {
                Some(sse::encode(&message))
            }
            Ok(Some(ResponseStep::Answer(None)) | None) => None,
            Err(_elapsed) => Some(sse::KEEP_ALIVE),
        }
    }

    /// The next message, and after the last of them the answer. May be dropped and called again.
    async fn step(&mut self) -> Option<ResponseStep> {
        if let Some(answer) = &mut self.answer {
            let answered = tokio::select! {
                biased;
                Some(message) = self.messages.recv() => return Some(ResponseStep::Message(message)),
                answered = answer => answered,
            };
            // What the request still holds, its bounds and its place among those under way, ends here.
            self.answer = None;
            self.last = Some(answered);
        }
        match self.messages.try_recv() {
            Ok(message) => Some(ResponseStep::Message(message)),
            Err(_) => self.last.take().map(ResponseStep::Answer),
        }
    }
}

/// The stream of a request, from where its reader is.
pub(crate) fn resumed(reader: replay::ReplayReader) -> Response {
    let all = stream::unfold(reader, |mut reader| async move {
        let event = match timeout(sse::KEEP_ALIVE_EVERY, reader.next()).await {
            Ok(event) => event?,
            Err(_elapsed) => sse::KEEP_ALIVE,
        };
        Some((Ok::<_, Infallible>(event), reader))
    });
    events(Body::from_stream(all))
}

/// The stream of a request whose answer nobody has any more: an error in its place.
pub(crate) fn lost(id: &str) -> Response {
    let detail = "the hub was started again during this call, or its answer came too long ago to be kept; whether it \
                  was executed is not known";
    let problem = Problem::new(Code::CallInterrupted, detail).next("check its effect, then call again");
    events(Body::from(sse::encode(&RpcError::on_the_way(problem).response(id))))
}

/// A client's own stream, until it is replaced, its session ends or the hub stops. What is `held` ends with it. What
/// comes first lets the client see at once that the stream is open.
pub(crate) fn stream<H: Send + 'static>(
    first: Bytes,
    reader: OutboxReader,
    stop: CancellationToken,
    held: H,
) -> Response {
    let begun = (Some(first), reader, stop, held);
    let all = stream::unfold(begun, |(first, mut reader, stop, held)| async move {
        let event = match first {
            Some(event) => event,
            None => tokio::select! {
                () = stop.cancelled() => return None,
                event = timeout(sse::KEEP_ALIVE_EVERY, reader.next()) => match event {
                    Ok(event) => event?,
                    Err(_elapsed) => sse::KEEP_ALIVE,
                },
            },
        };
        Some((Ok::<_, Infallible>(event), (None, reader, stop, held)))
    });
    events(Body::from_stream(all))
}

/// A JSON document.
pub(crate) fn json_with(status: StatusCode, json: String) -> Response {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    (status, headers, json).into_response()
}

fn events(body: Body) -> Response {
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
    ]);
    (StatusCode::OK, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    /// A request that says these things, each after so many seconds, and is answered after so many.
    fn under(says: &'static [(u64, &'static str)], answered: (u64, Option<&'static str>)) -> PendingResponse {
        let (out, messages) = mpsc::channel(1);
        let answer = async move {
            for (after, message) in says {
                tokio::time::sleep(Duration::from_secs(*after)).await;
                let _ = out.send((*message).to_owned()).await;
            }
            tokio::time::sleep(Duration::from_secs(answered.0)).await;
            answered.1.map(str::to_owned)
        };
        PendingResponse::new(Box::pin(answer), messages)
    }

    async fn read(response: Response) -> (String, String) {
        let kind = response.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (kind.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_soon_and_first_is_json() {
        let response = under(&[], (0, Some("{}"))).respond(true).await;
        assert_eq!(read(response).await, ("application/json".into(), "{}".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_before_the_answer_makes_it_a_stream() {
        let response = under(&[(0, "1"), (1, "2")], (0, Some("3"))).respond(true).await;
        let expected = "event: message\ndata: 1\n\nevent: message\ndata: 2\n\nevent: message\ndata: 3\n\n";
        assert_eq!(read(response).await, ("text/event-stream".into(), expected.into()));
        let response = under(&[(0, "1"), (1, "2")], (60, Some("3"))).respond(false).await;
        assert_eq!(read(response).await, ("application/json".into(), "3".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_a_stream_that_shows_signs_of_life() {
        let begun = Instant::now();
        let response = under(&[], (32, Some("x"))).respond(true).await;
        assert_eq!(begun.elapsed(), SOON);
        let alive = ": keep-alive\n\n";
        let expected = format!("{alive}{alive}{alive}event: message\ndata: x\n\n");
        assert_eq!(read(response).await, ("text/event-stream".into(), expected), "at 1, 16 and 31 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_request_ends_without_an_answer() {
        let response = under(&[], (1, None)).respond(true).await;
        assert_eq!(read(response).await, ("text/event-stream".into(), String::new()));
        let response = under(&[], (1, None)).respond(false).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_drops_the_request() {
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let (out, messages) = mpsc::channel(1);
        let answer = async move {
            let _alive = alive;
            let _ = out.send(String::from("1")).await;
            std::future::pending().await
        };
        let response = PendingResponse::new(Box::pin(answer), messages).respond(true).await;
        drop(response);
        assert!(ended.await.is_err(), "it was dropped");
    }
}

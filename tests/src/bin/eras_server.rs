//! The MCP server of the tests with both dialects: it speaks the versions it is told to, and does a little of
//! everything that the hub has to translate.
//!
//! `eras-server ERA NOTES stdio` or `eras-server ERA NOTES PORT`, where ERA is `older`, `both` or `modern`, and NOTES
//! is a file to which it writes what only a server can know. It is written with the official SDK, so it sends what real
//! servers send. It does the same in every version, and asks its client in the way of the version.

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, InputRequiredResult,
    ListResourcesResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams,
    ReadResourceResponse, ResourceUpdatedNotificationParam, ServerConfig, SubscribeRequestParams, SubscriptionFilter,
    UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, ServerHandler, ServiceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::broadcast;

type Context = RequestContext<RoleServer>;

/// The question of each round.
const ROUNDS: [&str; 2] = ["first", "second"];

#[derive(Debug, Clone)]
enum Change {
    Tools,
    Resource(String),
}

#[derive(Debug, Clone)]
struct Server {
    versions: Vec<ProtocolVersion>,
    notes: PathBuf,
    changes: broadcast::Sender<Change>,
    /// The listeners whose streams are being acknowledged; they get notifications from then on.
    hearing: Arc<Mutex<Vec<broadcast::Receiver<Change>>>>,
    more: Arc<AtomicUsize>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [era, notes, transport] = arguments.as_slice() else { bail!("eras-server ERA NOTES stdio|PORT") };
    let is_modern = |version: &ProtocolVersion| *version >= ProtocolVersion::V_2026_07_28;
    let mut versions = ProtocolVersion::KNOWN_VERSIONS.to_vec();
    match era.as_str() {
        "older" => versions.retain(|version| !is_modern(version)),
        "both" => {}
        "modern" => versions.retain(is_modern),
        other => bail!("{other:?} is no era"),
    }
    let (changes, hearing) = (broadcast::Sender::new(64), Arc::default());
    let server = Server { versions, notes: notes.into(), changes, hearing, more: Arc::default() };
    server.note("started")?;
    if transport == "stdio" {
        server.serve(rmcp::transport::stdio()).await?.waiting().await?;
        return Ok(());
    }
    let config = StreamableHttpServerConfig::default();
    let service =
        StreamableHttpService::new(move || Ok(server.clone()), Arc::new(LocalSessionManager::default()), config);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", transport.parse::<u16>()?)).await?;
    axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
    Ok(())
}

impl Server {
    fn note(&self, line: &str) -> Result<()> {
        let mut file = std::fs::File::options().create(true).append(true).open(&self.notes)?;
        writeln!(file, "{line}").context("no note was taken")
    }

    async fn call(&self, request: &CallToolRequestParams, context: &Context) -> Result<String, ErrorData> {
        let argument = |key: &str| {
            let value = request.arguments.as_ref().and_then(|all| all.get(key));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        match &*request.name {
            "echo" => Ok(format!("{} of {:?}", argument("text"), context.client_capabilities().map(|it| json!(it)))),
            "progress" => progress(context).await,
            "ask" => ask(context).await,
            "wait" => self.wait(&argument("tag"), context).await,
            "touch" => {
                self.change(Change::Resource(argument("uri")), context).await;
                Ok(String::from("touched"))
            }
            "grow" => {
                self.more.fetch_add(1, Ordering::Relaxed);
                self.change(Change::Tools, context).await;
                Ok(String::from("grown"))
            }
            other => Err(ErrorData::invalid_params(format!("no tool is called {other}"), None)),
        }
    }

    async fn wait(&self, tag: &str, context: &Context) -> Result<String, ErrorData> {
        self.note(&format!("waiting {tag}")).map_err(refused)?;
        context.ct.cancelled().await;
        self.note(&format!("cancelled {tag}")).map_err(refused)?;
        Ok(String::from("cancelled"))
    }

    async fn change(&self, change: Change, context: &Context) {
        // A listener that is gone gets no notification.
        let _ = self.changes.send(change.clone());
        if is_modern(context) {
            return;
        }
        let _ = match change {
            Change::Tools => context.peer.notify_tool_list_changed().await,
            Change::Resource(uri) => {
                context.peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await
            }
        };
    }
}

impl ServerHandler for Server {
    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Owned(self.versions.clone())
    }

    fn get_info(&self) -> ServerConfig {
        let capabilities = json!({
            "tools": {"listChanged": true},
            "resources": {"subscribe": true, "listChanged": true},
            "extensions": {"io.example/nothing": {"n": 1}},
        });
        ServerConfig::new(typed(capabilities).unwrap_or_default())
            .with_server_info(Implementation::new("eras-server", "1"))
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Result<ListToolsResult, ErrorData> {
        let fixed = ["echo", "progress", "ask", "wait", "touch", "grow"].map(str::to_owned);
        let more = (0..self.more.load(Ordering::Relaxed)).map(|n| format!("more_{n}"));
        let tools = fixed.into_iter().chain(more);
        let tools: Vec<_> = tools.map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
        typed(json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"}))
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        let resources = json!([{"uri": "test://one", "name": "one"}]);
        typed(json!({"resultType": "complete", "resources": resources, "ttlMs": 0, "cacheScope": "private"}))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let contents = json!([{"uri": request.uri, "text": "one"}]);
        let result = json!({"resultType": "complete", "contents": contents, "ttlMs": 0, "cacheScope": "private"});
        Ok(ReadResourceResponse::Complete(typed(result)?))
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: Context) -> Result<CallToolResponse, ErrorData> {
        if request.name == "ask" && is_modern(&context) {
            return rounds(&request, &context);
        }
        let text = self.call(&request, &context).await?;
        Ok(CallToolResponse::Complete(CallToolResult::success(vec![ContentBlock::text(text)])))
    }

    async fn subscribe(&self, request: SubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        self.note(&format!("subscribed {}", request.uri)).map_err(refused)
    }

    async fn unsubscribe(&self, request: UnsubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        self.note(&format!("unsubscribed {}", request.uri)).map_err(refused)
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        self.hearing.lock().push(self.changes.subscribe());
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let earlier = self.hearing.lock().pop();
        let mut changes = earlier.unwrap_or_else(|| self.changes.subscribe());
        self.note(&format!("listened to {:?}", context.accepted().resource_subscriptions)).map_err(refused)?;
        loop {
            let change = tokio::select! {
                () = context.cancelled() => break,
                change = changes.recv() => change,
            };
            // The SDK filters out what this listener did not ask for.
            let _ = match change {
                Ok(Change::Tools) => context.sink().notify_tool_list_changed().await,
                Ok(Change::Resource(uri)) => context.sink().notify_resource_updated(uri).await,
                Err(_) => break,
            };
        }
        self.note("listened no more").map_err(refused)
    }
}

/// Asks in two rounds; the state says which one this is.
fn rounds(request: &CallToolRequestParams, context: &Context) -> Result<CallToolResponse, ErrorData> {
    let can = context.client_capabilities();
    if can.as_ref().is_none_or(|can| can.elicitation.is_none()) {
        return Err(ErrorData::missing_required_client_capability(typed(json!({"elicitation": {}}))?));
    }
    let answers = json!(request.input_responses.clone().unwrap_or_default());
    let state = request.request_state.clone().unwrap_or_else(|| String::from("[]"));
    let mut said: Vec<Value> = serde_json::from_str(&state).map_err(refused)?;
    if request.request_state.is_some() {
        let key = ROUNDS.get(said.len()).copied().unwrap_or_default();
        said.push(answers[key]["content"]["name"].clone());
    }
    let Some(key) = ROUNDS.get(said.len()) else {
        return Ok(CallToolResponse::Complete(CallToolResult::success(vec![ContentBlock::text(
            json!(said).to_string(),
        )])));
    };
    let wanted = json!({"method": "elicitation/create", "params": question(key)});
    let result = json!({
        "resultType": "input_required",
        "inputRequests": {*key: wanted},
        "requestState": json!(said).to_string(),
    });
    Ok(typed::<InputRequiredResult>(result)?.into())
}

fn question(key: &str) -> Value {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    json!({"mode": "form", "message": format!("the {key}?"), "requestedSchema": schema})
}

async fn ask(context: &Context) -> Result<String, ErrorData> {
    let mut said = Vec::new();
    for key in ROUNDS {
        let answer = context.peer.create_elicitation(typed(question(key))?).await;
        let answer = json!(answer.map_err(refused)?);
        said.push(answer["content"]["name"].clone());
    }
    Ok(json!(said).to_string())
}

async fn progress(context: &Context) -> Result<String, ErrorData> {
    for done in 1..=3 {
        if let Some(token) = context.meta.get_progress_token() {
            let params = typed(json!({"progressToken": token, "progress": done, "total": 3}))?;
            let _ = context.peer.notify_progress(params).await;
        }
    }
    Ok(String::from("progressed"))
}

fn is_modern(context: &Context) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

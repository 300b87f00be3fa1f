//! The server itself: each method of MCP, answered from the fixtures.
//!
//! It does the same in every version; the SDK refuses what a version does not have. Between two calls it keeps only the
//! sealing key and which lists have their changing item now.

use crate::fixtures::{Fixtures, filled, text, typed};
use crate::jobs::Jobs;
use crate::rounds::{Given, Next, Rounds};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, ClientCapabilities, CompleteRequestParams,
    CompleteResult, GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse, ServerConfig, SetLevelRequestParams,
    SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext};
use rmcp::{ErrorData, ServerHandler};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::broadcast;

/// The pause that the suite expects between two messages of one call.
const STEP: Duration = Duration::from_millis(50);

type Context = RequestContext<RoleServer>;

/// A list that changed.
#[derive(Debug, Clone, Copy)]
enum Change {
    Tools,
    Prompts,
}

/// The server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    fixtures: Arc<Fixtures>,
    rounds: Rounds,
    jobs: Jobs,
    changes: broadcast::Sender<Change>,
    /// Whether tools and prompts have one more item now.
    more: Arc<[AtomicBool; 2]>,
}

impl Server {
    /// A server without listeners.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            fixtures: Arc::new(Fixtures::read()?),
            rounds: Rounds::new()?,
            jobs: Jobs::default(),
            changes: broadcast::Sender::new(16),
            more: Arc::default(),
        })
    }

    async fn tool(&self, name: &str, arguments: &Map<String, Value>, context: &Context) -> Result<Value, ErrorData> {
        let argument = |key: &str| arguments.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        match name {
            "test_tool_with_logging" | "test_logging_tool" => log(context).await,
            "test_tool_with_progress" => progress(context).await?,
            "greet" => return Ok(text(&format!("Hello, {}!", argument("name")))),
            "test_reconnection" => tokio::time::sleep(STEP).await,
            "test_sampling" => return sample(argument("prompt"), context).await,
            "test_list_roots" => return roots(context).await,
            "test_missing_capability" => needs_sampling(context)?,
            "test_trigger_tool_change" => self.changed(Change::Tools, context).await,
            "test_trigger_prompt_change" => self.changed(Change::Prompts, context).await,
            _ => return self.elicit(name, argument("message"), context).await,
        }
        Ok(text("done"))
    }

    async fn elicit(&self, name: &str, message: String, context: &Context) -> Result<Value, ErrorData> {
        let unknown = || ErrorData::invalid_params(format!("no tool is called {name}"), None);
        let mut params = self.fixtures.find("elicitations", name).ok_or_else(unknown)?.clone();
        if !message.is_empty() {
            params["message"] = message.into();
        }
        let answered = context.peer.create_elicitation(typed(params)?).await;
        let answer = json!(answered.map_err(refused)?);
        let content = answer.get("content").cloned().unwrap_or_default();
        Ok(text(&format!(
            "Elicitation completed: action={}, content={content}",
            answer["action"].as_str().unwrap_or("?")
        )))
    }

    async fn changed(&self, change: Change, context: &Context) {
        self.more[change as usize].fetch_xor(true, Ordering::Relaxed);
        // A listener that is gone gets no notification.
        let _ = self.changes.send(change);
        let _ = match change {
            Change::Tools => context.peer.notify_tool_list_changed().await,
            Change::Prompts => context.peer.notify_prompt_list_changed().await,
        };
    }

    /// A list of the fixtures, with one more item after every other change.
    fn list(&self, part: &str, change: Change) -> Result<Value, ErrorData> {
        let mut list: Value = self.fixtures.list(part)?;
        if let Some(items) = list[part].as_array_mut().filter(|_| self.more[change as usize].load(Ordering::Relaxed)) {
            items.push(json!({"name": "one_more", "description": "comes and goes", "inputSchema": {"type": "object"}}));
        }
        Ok(list)
    }

    /// A result of the fixtures, or a round of input that is needed before it.
    fn asked(&self, name: &str, given: &Given) -> Option<Result<Next, ErrorData>> {
        self.fixtures.find("asks", name).map(|ask| self.rounds.next(name, ask, given))
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = typed(self.fixtures.part("capabilities").clone()).unwrap_or_default();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("conformance-server", "1"))
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Result<ListToolsResult, ErrorData> {
        complete(self.list("tools", Change::Tools)?)
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        complete(self.list("prompts", Change::Prompts)?)
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        complete(self.fixtures.list("resources")?)
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        complete(self.fixtures.list("resourceTemplates")?)
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: Context) -> Result<CallToolResponse, ErrorData> {
        let given = given(request.input_responses, request.request_state, &context);
        let job = self.fixtures.find("jobs", &request.name);
        let said = match self.asked(&request.name, &given).transpose()? {
            Some(Next::Ask(ask)) => return Ok(ask.into()),
            Some(Next::Done(answers)) => Some(summary(&answers)),
            None => None,
        };
        match (job, said) {
            (Some(job), said) => {
                let knows_tasks = context.client_capabilities().is_some_and(|can| can.supports_tasks());
                let arguments = request.arguments.unwrap_or_default();
                return self.jobs.call(job, arguments, said.unwrap_or_default(), knows_tasks).await;
            }
            (None, Some(said)) => return Ok(CallToolResponse::Complete(complete(text(&said))?)),
            (None, None) => {}
        }
        let result = match self.fixtures.find("results", &request.name) {
            Some(result) => result.clone(),
            None => self.tool(&request.name, &request.arguments.unwrap_or_default(), &context).await?,
        };
        Ok(CallToolResponse::Complete(complete(result)?))
    }

    /// The SDK uses its schema to check the headers that repeat arguments.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tools = self.fixtures.part("tools").as_array()?;
        typed(tools.iter().find(|tool| tool["name"] == name)?.clone()).ok()
    }

    async fn get_task(&self, request: GetTaskParams, _: Context) -> Result<GetTaskResult, ErrorData> {
        self.jobs.get(&request.task_id)
    }

    async fn update_task(&self, request: UpdateTaskParams, _: Context) -> Result<(), ErrorData> {
        self.jobs.update(&request.task_id, request.input_responses)
    }

    async fn cancel_task(&self, request: CancelTaskParams, _: Context) -> Result<(), ErrorData> {
        self.jobs.cancel(&request.task_id)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: Context,
    ) -> Result<GetPromptResponse, ErrorData> {
        let given = given(request.input_responses, request.request_state, &context);
        if let Some(next) = self.asked(&request.name, &given) {
            return Ok(match next? {
                Next::Ask(ask) => ask.into(),
                Next::Done(answers) => GetPromptResponse::Complete(complete(
                    json!({"messages": [{"role": "user", "content": {"type": "text", "text": summary(&answers)}}]}),
                )?),
            });
        }
        let unknown = || ErrorData::invalid_params(format!("no prompt is called {}", request.name), None);
        let messages = self.fixtures.find("messages", &request.name).ok_or_else(unknown)?;
        Ok(GetPromptResponse::Complete(complete(filled(messages, &request.arguments.unwrap_or_default()))?))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let of_template = || {
            let id = request.uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
            let values = Map::from_iter([(String::from("id"), id.into())]);
            Some(filled(self.fixtures.find("contents", "test://template/{id}/data")?, &values))
        };
        let found = self.fixtures.find("contents", &request.uri).cloned().or_else(of_template);
        let missing = || ErrorData::resource_not_found("Resource not found", Some(json!({"uri": request.uri})));
        let mut content = found.ok_or_else(missing)?;
        content["uri"] = request.uri.clone().into();
        let result = json!({"contents": [content], "ttlMs": 60_000, "cacheScope": "private"});
        Ok(ReadResourceResponse::Complete(complete(result)?))
    }

    async fn complete(&self, _: CompleteRequestParams, _: Context) -> Result<CompleteResult, ErrorData> {
        complete(json!({"completion": {"values": ["paris", "park", "party"], "total": 3, "hasMore": false}}))
    }

    async fn set_level(&self, _: SetLevelRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn subscribe(&self, _: SubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(&self, _: UnsubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.changes.subscribe();
        loop {
            let change = tokio::select! {
                () = context.cancelled() => return Ok(()),
                change = changes.recv() => change,
            };
            // The SDK filters out what this listener did not ask for.
            let _ = match change {
                Ok(Change::Tools) => context.sink().notify_tool_list_changed().await,
                Ok(Change::Prompts) => context.sink().notify_prompt_list_changed().await,
                Err(_) => return Ok(()),
            };
        }
    }
}

fn given(responses: Option<rmcp::model::InputResponses>, state: Option<String>, context: &Context) -> Given {
    Given { responses: responses.unwrap_or_default(), state, capabilities: context.client_capabilities() }
}

fn summary(answers: &Map<String, Value>) -> String {
    let name = |answer: &Value| answer["content"]["name"].as_str().map(|name| format!("Hello, {name}! "));
    let greeting = answers.values().find_map(name).unwrap_or_default();
    format!("{greeting}state-ok {}", Value::Object(answers.clone()))
}

/// A result with the type that 2026-07-28 demands; the SDK removes it for older versions.
fn complete<T: DeserializeOwned>(mut result: Value) -> Result<T, ErrorData> {
    result["resultType"] = "complete".into();
    typed(result)
}

fn refused(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

fn is_modern(context: &Context) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

async fn log(context: &Context) {
    for said in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
        if !is_modern(context) || context.meta.log_level().is_some() {
            let params = json!({"level": "info", "logger": "conformance-server", "data": said});
            if let Ok(params) = typed(params) {
                // A listener that is gone gets no notification.
                let _ = context.peer.notify_logging_message(params).await;
            }
        }
        tokio::time::sleep(STEP).await;
    }
}

async fn progress(context: &Context) -> Result<(), ErrorData> {
    for done in [0, 50, 100] {
        if let Some(token) = context.meta.get_progress_token() {
            let params = typed(json!({"progressToken": token, "progress": done, "total": 100}))?;
            let _ = context.peer.notify_progress(params).await;
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}

async fn sample(prompt: String, context: &Context) -> Result<Value, ErrorData> {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    let params = typed(json!({"messages": [message], "maxTokens": 100}))?;
    let answer = json!(context.peer.create_message(params).await.map_err(refused)?);
    Ok(text(&format!("LLM response: {}", answer["content"]["text"].as_str().unwrap_or("?"))))
}

async fn roots(context: &Context) -> Result<Value, ErrorData> {
    let answer = json!(context.peer.list_roots().await.map_err(refused)?);
    Ok(text(&answer.to_string()))
}

fn needs_sampling(context: &Context) -> Result<(), ErrorData> {
    if context.client_capabilities().is_some_and(|can| can.sampling.is_some()) {
        return Ok(());
    }
    let wanted: ClientCapabilities = typed(json!({"sampling": {}}))?;
    Err(ErrorData::missing_required_client_capability(wanted))
}

//! Tools whose calls become tasks (the extension `io.modelcontextprotocol/tasks` of 2026-07-28).
//!
//! The tools under `jobs` in the fixtures run as tasks of the SDK or, for a client that did not announce tasks, at
//! once.

use crate::fixtures::{text, typed};
use rmcp::ErrorData;
use rmcp::model::{
    CallToolResponse, CallToolResult, ClientCapabilities, CreateTaskResult, GetTaskResult, InputResponses,
};
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Short enough for the suite, and different from its other numbers.
const POLL_MS: u64 = 250;

/// What the tools do.
#[derive(Clone, Default)]
pub(crate) struct Jobs(TaskManager);

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Jobs({})", self.0.running_task_count())
    }
}

/// One call of such a tool.
struct Job {
    fixture: Value,
    arguments: Map<String, Value>,
    /// The answers of the client before the call became a task.
    said: String,
}

impl Jobs {
    /// A call of the tool with this fixture.
    pub(crate) async fn call(
        &self,
        fixture: &Value,
        arguments: Map<String, Value>,
        said: String,
        knows_tasks: bool,
    ) -> Result<CallToolResponse, ErrorData> {
        let job = Job { fixture: fixture.clone(), arguments, said };
        if knows_tasks {
            let options = TaskOptions::new().with_poll_interval_ms(POLL_MS);
            let task = self.0.spawn(options, |context| Box::pin(async move { job.run(&context).await }));
            return Ok(CallToolResponse::Task(CreateTaskResult::new(task)));
        }
        if fixture["required"] == true {
            let wanted: ClientCapabilities = typed(json!({"extensions": {"io.modelcontextprotocol/tasks": {}}}))?;
            return Err(ErrorData::missing_required_client_capability(wanted));
        }
        tokio::time::sleep(job.takes()).await;
        job.result().map(CallToolResponse::Complete)
    }

    /// The state of a task.
    pub(crate) fn get(&self, id: &str) -> Result<GetTaskResult, ErrorData> {
        self.0.get_task(id).map(GetTaskResult::new)
    }

    /// Delivers the client's answers to a task.
    pub(crate) fn update(&self, id: &str, answers: InputResponses) -> Result<(), ErrorData> {
        self.0.update_task(id, answers)
    }

    /// Asks a task to end.
    pub(crate) fn cancel(&self, id: &str) -> Result<(), ErrorData> {
        self.0.cancel_task(id)
    }
}

impl Job {
    fn takes(&self) -> Duration {
        let seconds = self.arguments.get("seconds").or_else(|| self.fixture.get("seconds")).and_then(Value::as_f64);
        Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default()
    }

    async fn run(self, context: &TaskContext) -> Result<CallToolResult, TaskExit> {
        tokio::select! {
            () = tokio::time::sleep(self.takes()) => {}
            () = context.cancelled() => return Err(TaskExit::Cancelled),
        }
        let mut questions = Vec::new();
        for (number, message) in self.fixture["asks"].as_array().into_iter().flatten().enumerate() {
            let schema = json!({"type": "object", "properties": {"confirm": {"type": "boolean"}}});
            let params = json!({"mode": "form", "message": message, "requestedSchema": schema});
            let request = typed(json!({"method": "elicitation/create", "params": params}))?;
            questions.push(context.request_input(format!("question-{number}"), request));
        }
        let answers = futures_util::future::try_join_all(questions).await?;
        Ok(self.result().map(|result| with_answers(result, &answers))?)
    }

    fn result(&self) -> Result<CallToolResult, ErrorData> {
        if let Some(error) = self.fixture["error"].as_str() {
            return Err(ErrorData::internal_error(error.to_owned(), None));
        }
        let label = self.arguments.get("label").and_then(Value::as_str).unwrap_or_default();
        let done = || text(format!("done {label}{}", self.said).trim_end());
        let mut result = self.fixture.get("result").cloned().unwrap_or_else(done);
        result["resultType"] = "complete".into();
        typed(result)
    }
}

/// The result of a task that asked contains the answer.
fn with_answers(mut result: CallToolResult, answers: &[Value]) -> CallToolResult {
    if !answers.is_empty() {
        result.structured_content = Some(json!({"answers": answers}));
    }
    result
}

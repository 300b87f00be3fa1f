//! Answers the questions of the hub's own MCP tools from the same functions as the routes.
//!
//! It offers neither running a command nor stopping an instance.

use super::{ApiState, control, instances, logs};
use crate::gateway::mcp::HubApi;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use linchpin_shared::problem::Problem;
use serde_json::{Value, json};
use std::sync::Arc;

impl HubApi for ApiState {
    fn status(&self) -> Value {
        json!(instances::overview(self))
    }

    fn instance(&self, name: &str) -> Result<Value, Problem> {
        instances::instance(self, name)
    }

    fn link_history(self: Arc<Self>, name: String) -> BoxFuture<'static, Result<Value, Problem>> {
        async move { instances::link_history(&self, &name).await }.boxed()
    }

    fn logs(
        self: Arc<Self>,
        name: String,
        process: Option<String>,
        lines: usize,
    ) -> BoxFuture<'static, Result<String, Problem>> {
        logs::last(self, name, process, lines).boxed()
    }

    fn restart(
        self: Arc<Self>,
        name: String,
        process: Option<String>,
    ) -> BoxFuture<'static, Result<Vec<String>, Problem>> {
        async move { control::restart_processes(&self, &name, process).await }.boxed()
    }
}

//! What the hub's own tools are answered with: the same as the routes.
//!
//! Owns the way of the gateway's questions to what the routes answer. Invariant: one source for both.
//! Never: offers what spawns a command or stops an instance.

use super::{Api, instances, logs, steer};
use crate::gateway::mcp::HubApi;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use linchpin_shared::problem::Problem;
use serde_json::{Value, json};
use std::sync::Arc;

impl HubApi for Api {
    fn status(&self) -> Value {
        json!(instances::everything(self))
    }

    fn instance(&self, name: &str) -> Result<Value, Problem> {
        instances::instance(self, name)
    }

    fn story(self: Arc<Self>, name: String) -> BoxFuture<'static, Result<Value, Problem>> {
        async move { instances::story(&self, &name).await }.boxed()
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
        async move { steer::begin_again(&self, &name, process).await }.boxed()
    }
}

//! What a client is told when something fails.
//!
//! Owns [`RpcError`], a JSON-RPC error whose `data` is a [`Problem`], so that an agent and a person read the same thing.
//! Codes: JSON-RPC's own for bad messages, -32602 for what is not known (as MCP has it), -32002 for resources,
//! -32000 for everything that happened on the way to a backend, and those that 2026-07-28 added. Never: an empty success in place of an error.

use super::envelope::Malformed;
use super::json::{Unreadable, quote};
use super::task_fields::EXTENSION;
use super::version::Version;
use linchpin_shared::problem::{Code, Problem};
use serde_json::{Map, Value};

/// How much of a detail a client is told, in characters: more than any of ours has that quotes nothing long.
const MAX_DETAIL: usize = 2000;

/// A JSON-RPC error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RpcError {
    code: i32,
    problem: Box<Problem>,
    /// Members of `data` that MCP asks for, beside those of the problem.
    data: Map<String, Value>,
}

impl RpcError {
    /// Something failed on the way to a backend.
    pub(crate) fn on_the_way(problem: Problem) -> Self {
        Self::new(-32000, problem)
    }

    /// The message cannot be used as a request.
    pub(crate) fn invalid_request(detail: impl Into<String>) -> Self {
        Self::new(-32600, Problem::new(Code::BadRequest, detail))
    }

    /// The body is not even text.
    pub(crate) fn not_json(error: &dyn std::error::Error) -> Self {
        Self::new(-32700, Problem::new(Code::BadRequest, format!("not JSON: {error}")))
    }

    /// There is no such method here.
    pub(crate) fn method_not_found(method: &str) -> Self {
        Self::new(-32601, Problem::new(Code::BadRequest, format!("method {method:?} is not known here")))
    }

    /// The same with a reason.
    pub(crate) fn because(mut self, why: &str) -> Self {
        self.problem.detail = format!("{}: {why}", self.problem.detail);
        self
    }

    /// What a person is told.
    pub(crate) fn into_problem(self) -> Problem {
        *self.problem
    }

    /// The parameters cannot be used.
    pub(crate) fn invalid_params(detail: impl Into<String>) -> Self {
        Self::new(-32602, Problem::new(Code::BadRequest, detail))
    }

    /// The parameters name something that does not exist.
    pub(crate) fn unknown(problem: Problem) -> Self {
        Self::new(-32602, problem)
    }

    /// The parameters name a resource that does not exist.
    pub(crate) fn unknown_resource(problem: Problem) -> Self {
        Self::new(-32002, problem)
    }

    fn new(code: i32, mut problem: Problem) -> Self {
        // What is quoted in it may be as long as a message.
        if let Some((end, _)) = problem.detail.char_indices().nth(MAX_DETAIL) {
            problem.detail.truncate(end);
            problem.detail.push('…');
        }
        Self { code, problem: Box::new(problem), data: Map::new() }
    }

    /// The headers of a request say something else than its body.
    pub(crate) fn header_mismatch(detail: &str) -> Self {
        Self::new(-32020, Problem::new(Code::BadRequest, detail))
    }

    /// A request of a version that is not spoken here.
    pub(crate) fn unsupported_version(requested: &str) -> Self {
        let problem = Problem::new(Code::BadRequest, format!("MCP {requested:?} is not spoken here"));
        let mut error = Self::new(-32022, problem.next("server/discover, and use a version that it lists"));
        error.data.insert(String::from("supported"), vec![Version::V2026_07_28.as_str()].into());
        error.data.insert(String::from("requested"), requested.into());
        error
    }

    /// The client did not say that it knows tasks, without which this cannot be done.
    pub(crate) fn needs_tasks() -> Self {
        let detail = format!("the client must declare the extension {EXTENSION} for this");
        let mut error = Self::new(-32021, Problem::new(Code::BadRequest, detail));
        let wanted = serde_json::json!({"extensions": {EXTENSION: {}}});
        error.data.insert(String::from("requiredCapabilities"), wanted);
        error
    }

    /// Whether something failed on the way to a backend.
    pub(crate) fn is_on_the_way(&self) -> bool {
        self.code == -32000
    }

    /// The code of the problem.
    pub(crate) fn problem_code(&self) -> Code {
        self.problem.code
    }

    /// Whether it says that there is no such method.
    pub(crate) fn is_unknown_method(&self) -> bool {
        self.code == -32601
    }

    /// Its code.
    #[cfg(test)]
    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    /// The HTTP status with which a message that cannot be taken is refused.
    pub(crate) fn status(&self) -> u16 {
        self.problem.status
    }

    /// The response to the request with this id, which is JSON.
    pub(crate) fn response(&self, id: &str) -> String {
        let mut data = serde_json::to_value(&self.problem).unwrap_or_default();
        if let Some(members) = data.as_object_mut() {
            members.extend(self.data.clone());
        }
        let message = quote(&self.problem.detail);
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{},"message":{message},"data":{data}}}}}"#, self.code)
    }
}

impl From<&Malformed> for RpcError {
    fn from(malformed: &Malformed) -> Self {
        let (code, kind) = match malformed {
            Malformed::Unreadable(Unreadable::Syntax(_)) => (-32700, Code::BadRequest),
            Malformed::TooDeep | Malformed::Unreadable(Unreadable::TooMany) => (-32600, Code::TooLarge),
            Malformed::Unreadable(Unreadable::Duplicate(_)) | Malformed::Batch | Malformed::NotRpc(_) => {
                (-32600, Code::BadRequest)
            }
        };
        Self::new(code, Problem::new(kind, malformed.to_string()).next("send one JSON-RPC 2.0 object in each POST"))
    }
}

/// The response with this result, which is JSON, to the request with this id.
pub(crate) fn success(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_the_problem() {
        let problem = Problem::new(Code::UnknownTool, "no tool is called \"x\"").next("linchpin tools");
        let json: Value = serde_json::from_str(&RpcError::unknown(problem.clone()).response("\"a\"")).unwrap();
        assert_eq!((&json["id"], &json["error"]["code"]), (&Value::from("a"), &Value::from(-32602)));
        assert_eq!(json["error"]["message"], "no tool is called \"x\"");
        assert_eq!(serde_json::from_value::<Problem>(json["error"]["data"].clone()).unwrap(), problem);
    }

    #[test]
    fn what_is_quoted_is_cut() {
        let error = RpcError::method_not_found(&"é".repeat(1 << 20));
        assert!(error.response("1").len() < 10 * MAX_DETAIL, "{}", error.response("1").len());
    }

    #[test]
    fn a_syntax_error_has_its_own_code() {
        assert_eq!(RpcError::from(&Malformed::Unreadable(Unreadable::Syntax(String::from("x")))).code, -32700);
        assert_eq!(RpcError::from(&Malformed::Batch).code, -32600);
        assert_eq!(RpcError::from(&Malformed::TooDeep).status(), 413);
    }
}

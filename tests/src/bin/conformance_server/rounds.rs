//! Tools and a prompt that ask for input before they answer (`input_required` of 2026-07-28).
//!
//! The sealed `requestState` of a call says in which round it is. A state that was not sealed here is an error; missing
//! or unusable answers are asked for again.

use crate::fixtures::typed;
use rmcp::ErrorData;
use rmcp::model::{ClientCapabilities, InputRequiredResult, InputResponses, RequestStateCodec};
use serde_json::{Map, Value, json};

/// What a call carries beside its arguments.
#[derive(Debug)]
pub(crate) struct Given {
    /// The answers of the client.
    pub(crate) responses: InputResponses,
    /// The sealed state.
    pub(crate) state: Option<String>,
    /// The capabilities of the client.
    pub(crate) capabilities: Option<ClientCapabilities>,
}

/// The next step of a call.
#[derive(Debug)]
pub(crate) enum Next {
    /// More input is needed.
    Ask(InputRequiredResult),
    /// All input is there.
    Done(Map<String, Value>),
}

/// Seals and opens the states of calls.
#[derive(Debug, Clone)]
pub(crate) struct Rounds(RequestStateCodec);

impl Rounds {
    /// With any key: the test is that a changed state is noticed.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(RequestStateCodec::try_new(b"a key of thirty-two bytes or more")?))
    }

    /// The next step of a call of `name`, whose fixture is `ask`.
    pub(crate) fn next(&self, name: &str, ask: &Value, given: &Given) -> Result<Next, ErrorData> {
        let (round, rounds) = (self.round(name, given)?, ask["rounds"].as_array().cloned().unwrap_or_default());
        let wanted = |round: usize| {
            let all = rounds.get(round).and_then(Value::as_object).cloned().unwrap_or_default();
            all.into_iter().filter(|(_, request)| ask["declared"] != true || can(given, request)).collect::<Map<_, _>>()
        };
        let now = wanted(round);
        if !now.iter().all(|(key, request)| given.responses.get(key).is_some_and(|answer| answers(request, answer))) {
            return self.ask(name, ask, &now, round);
        }
        match wanted(round + 1) {
            next if next.is_empty() => Ok(Next::Done(given.responses.clone().into_iter().collect())),
            next => self.ask(name, ask, &next, round + 1),
        }
    }

    fn ask(&self, name: &str, ask: &Value, wanted: &Map<String, Value>, round: usize) -> Result<Next, ErrorData> {
        let mut result = json!({"resultType": "input_required", "inputRequests": wanted});
        if ask["sealed"] == true {
            result["requestState"] = self.0.seal(format!("{name} {round}").as_bytes()).into();
        }
        Ok(Next::Ask(typed(result)?))
    }

    fn round(&self, name: &str, given: &Given) -> Result<usize, ErrorData> {
        let Some(state) = &given.state else { return Ok(0) };
        let wrong = || ErrorData::invalid_params("the requestState is not one of this call", None);
        let opened = self.0.open(state).map_err(|_| wrong())?;
        let opened = String::from_utf8(opened).map_err(|_| wrong())?;
        let (of, round) = opened.rsplit_once(' ').ok_or_else(wrong)?;
        if of == name { round.parse().map_err(|_| wrong()) } else { Err(wrong()) }
    }
}

/// Whether the client announced this capability.
fn can(given: &Given, request: &Value) -> bool {
    given.capabilities.as_ref().is_some_and(|can| match request["method"].as_str() {
        Some("elicitation/create") => can.elicitation.is_some(),
        Some("sampling/createMessage") => can.sampling.is_some(),
        Some("roots/list") => can.roots.is_some(),
        _ => false,
    })
}

fn answers(request: &Value, answer: &Value) -> bool {
    match request["method"].as_str() {
        Some("elicitation/create") => {
            matches!(answer["action"].as_str(), Some("decline" | "cancel"))
                || (answer["action"] == "accept" && answer["content"].is_object())
        }
        Some("sampling/createMessage") => answer["content"].is_object() || answer["content"].is_array(),
        Some("roots/list") => answer["roots"].is_array(),
        _ => false,
    }
}

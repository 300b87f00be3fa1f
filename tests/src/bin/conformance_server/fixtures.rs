//! What the suite demands, as data: `fixtures.json`, whose parts are types of the SDK as JSON.

use rmcp::ErrorData;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The fixtures.
#[derive(Debug)]
pub(crate) struct Fixtures(Value);

impl Fixtures {
    /// Reads them.
    pub(crate) fn read() -> anyhow::Result<Self> {
        Ok(Self(serde_json::from_str(include_str!("fixtures.json"))?))
    }

    /// One part as JSON.
    pub(crate) fn part(&self, name: &str) -> &Value {
        &self.0[name]
    }

    /// The value of a part under this key.
    pub(crate) fn find(&self, part: &str, key: &str) -> Option<&Value> {
        self.0[part].get(key)
    }

    /// A list as the result of its method, fresh for a minute.
    pub(crate) fn list<T: DeserializeOwned>(&self, part: &str) -> Result<T, ErrorData> {
        let mut result = Map::new();
        result.insert(part.to_owned(), self.0[part].clone());
        result.insert("ttlMs".to_owned(), 60_000.into());
        result.insert("cacheScope".to_owned(), "private".into());
        typed(Value::Object(result))
    }
}

/// The result of a tool with this text.
pub(crate) fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

/// A value as a type of the SDK.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// A value in whose strings each `{key}` is replaced by its entry in `values`.
pub(crate) fn filled(value: &Value, values: &Map<String, Value>) -> Value {
    match value {
        Value::String(text) => {
            let fill = |text: String, (key, value): (&String, &Value)| {
                text.replace(&format!("{{{key}}}"), value.as_str().unwrap_or_default())
            };
            Value::String(values.iter().fold(text.clone(), fill))
        }
        Value::Array(items) => items.iter().map(|item| filled(item, values)).collect(),
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), filled(value, values))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

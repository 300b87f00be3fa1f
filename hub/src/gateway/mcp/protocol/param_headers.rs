//! Arguments of tools that headers repeat (`x-mcp-header`, 2026-07-28).
//!
//! Owns [`ParamHeaders`], read from a tool's input schema: which arguments stand in which `Mcp-Param-*` headers; and the two
//! things that are done with it: holding headers against arguments, and making them.
//! Invariant: annotations that break a rule of the specification make the whole definition invalid, and are neither
//! checked nor followed. What is made is accepted by what checks. Never: reads a schema at a call.

use super::headers::PARAM_PREFIX;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashSet;

/// The annotation.
const ANNOTATION: &str = "x-mcp-header";

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RepeatedArgument {
    /// The keys that lead to it.
    path: Vec<String>,
    header: HeaderName,
}

/// The arguments of one tool that headers repeat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ParamHeaders(Vec<RepeatedArgument>);

impl ParamHeaders {
    /// What a tool, as it stands in a list, wants to be repeated; why its definition is invalid, if it is.
    pub(crate) fn of_tool(tool: &str) -> Result<Option<Self>, String> {
        // Hardly any tool has it.
        if !tool.contains(ANNOTATION) {
            return Ok(None);
        }
        let tool: Value = serde_json::from_str(tool).map_err(|error| error.to_string())?;
        let Some(schema) = tool.get("inputSchema").and_then(Value::as_object) else { return Ok(None) };
        if schema.contains_key(ANNOTATION) || has_stray(schema, true) {
            return Err(format!("{ANNOTATION} stands where no chain of properties leads to"));
        }
        let mut param_headers = Self::default();
        param_headers.collect(schema, &mut Vec::new())?;
        let mut seen = HashSet::new();
        match param_headers.0.iter().find(|repeated| !seen.insert(&repeated.header)) {
            Some(repeated) => Err(format!("two arguments want the header {}", repeated.header)),
            None => Ok(Some(param_headers).filter(|param_headers| !param_headers.0.is_empty())),
        }
    }

    fn collect(&mut self, schema: &Map<String, Value>, path: &mut Vec<String>) -> Result<(), String> {
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        for (key, property) in properties.filter_map(|(key, value)| Some((key, value.as_object()?))) {
            path.push(key.clone());
            if let Some(annotation) = property.get(ANNOTATION) {
                let header = header(annotation, property).map_err(|why| format!("{}: {why}", path.join(".")))?;
                self.0.push(RepeatedArgument { path: path.clone(), header });
            }
            self.collect(property, path)?;
            path.pop();
        }
        Ok(())
    }

    /// Holds headers against arguments.
    pub(crate) fn check(&self, headers: &HeaderMap, arguments: &str) -> Result<(), String> {
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
        for repeated in &self.0 {
            let (name, path) = (&repeated.header, repeated.path.join("."));
            let mut all = headers.get_all(name).iter();
            let wanted = repeated.value(&arguments);
            match (all.next(), all.next(), wanted) {
                (_, Some(_), _) => return Err(format!("the header {name} stands there twice")),
                (None, _, None) => {}
                (None, _, Some(_)) => return Err(format!("the header {name} is missing, the body has {path:?}")),
                (Some(_), _, None) => {
                    return Err(format!("the header {name} repeats {path:?}, which the body has not"));
                }
                (Some(said), _, Some(value)) => {
                    let said = said.to_str().ok().map(str::trim).and_then(decoded);
                    let said = said.ok_or_else(|| format!("the header {name} cannot be read"))?;
                    if said != value {
                        return Err(format!("the header {name} says {said:?}, the body {value:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The headers of a call with these arguments.
    pub(crate) fn made(&self, arguments: &str) -> HeaderMap {
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
        let made = self.0.iter().filter_map(|repeated| {
            let value = repeated.value(&arguments)?;
            Some((repeated.header.clone(), HeaderValue::from_str(&super::headers::encoded(&value)).ok()?))
        });
        made.collect()
    }
}

impl RepeatedArgument {
    /// What the arguments have there, as it stands in a header.
    fn value<'v>(&self, arguments: &'v Value) -> Option<Cow<'v, str>> {
        match self.path.iter().try_fold(arguments, |value, key| value.get(key))? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Bool(value) => Some(Cow::Owned(value.to_string())),
            Value::Number(number) => {
                let whole = number.as_f64().filter(|it| !number.is_i64() && !number.is_u64() && it.fract() == 0.0);
                Some(Cow::Owned(whole.map_or_else(|| number.to_string(), |whole| format!("{whole:.0}"))))
            }
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// The header that an annotation names.
fn header(annotation: &Value, property: &Map<String, Value>) -> Result<HeaderName, String> {
    let name = annotation.as_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| format!("{ANNOTATION} is no name of a header"))?;
    // The names of headers are tokens (RFC 9110, section 5.6.2), which is just what is allowed.
    let header = HeaderName::from_bytes(format!("{PARAM_PREFIX}{name}").as_bytes());
    let header = header.map_err(|_| format!("{ANNOTATION} {name:?} is no name of a header"))?;
    match property.get("type").and_then(Value::as_str) {
        Some("string" | "integer" | "boolean") => Ok(header),
        other => Err(format!("{ANNOTATION} is for strings, integers and booleans, not for {other:?}")),
    }
}

/// Whether an annotation stands off the chain of `properties`; `on` says whether this schema is on it.
fn has_stray(schema: &Map<String, Value>, on: bool) -> bool {
    schema.iter().any(|(key, value)| match key.as_str() {
        ANNOTATION => !on,
        "properties" => within(value, on),
        "$defs" | "definitions" | "dependentSchemas" | "patternProperties" => within(value, false),
        // Values, no schemas.
        "default" | "const" | "enum" | "examples" => false,
        _ => strays(value),
    })
}

/// The same for each of the schemas that are the members of this.
fn within(schemas: &Value, on: bool) -> bool {
    let schemas = schemas.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_object);
    schemas.into_iter().any(|schema| has_stray(schema, on))
}

fn strays(value: &Value) -> bool {
    match value {
        Value::Object(schema) => has_stray(schema, false),
        Value::Array(all) => all.iter().any(strays),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// What a header says; none if it claims to be encoded and is not.
fn decoded(said: &str) -> Option<Cow<'_, str>> {
    let Some(encoded) = said.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(said));
    };
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn param_headers(properties: &Value) -> Result<Option<ParamHeaders>, String> {
        ParamHeaders::of_tool(
            &json!({"name": "t", "inputSchema": {"type": "object", "properties": properties}}).to_string(),
        )
    }

    fn good() -> ParamHeaders {
        let at = json!({"type": "object", "properties": {"floor": {"type": "integer", "x-mcp-header": "Floor"}}});
        param_headers(&json!({"region": {"type": "string", "x-mcp-header": "Region"}, "at": at})).unwrap().unwrap()
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn headers_and_arguments_must_agree() {
        let (region, floor) = ("mcp-param-region", "mcp-param-floor");
        let ok = |all: &[(&'static str, &str)], arguments: &str| good().check(&headers(all), arguments).is_ok();
        assert!(ok(&[(region, "north")], r#"{"region":"north"}"#));
        assert!(ok(&[(region, "=?base64?SGVsbG8=?=")], r#"{"region":"Hello"}"#));
        assert!(ok(&[(floor, "42")], r#"{"at":{"floor":42.0}}"#));
        assert!(ok(&[], "{}") && ok(&[], r#"{"region":null}"#));
        assert!(!ok(&[], r#"{"region":"north"}"#), "missing");
        assert!(!ok(&[(region, "north")], "{}"), "of nothing");
        assert!(!ok(&[(region, "south")], r#"{"region":"north"}"#));
        assert!(!ok(&[(region, "=?base64?SGVsbG8?=")], r#"{"region":"Hello"}"#), "padding");
        assert!(!ok(&[(region, "=?base64?SGVs!!!bG8=?=")], r#"{"region":"Hello"}"#), "alphabet");
        let mut twice = headers(&[(region, "north")]);
        twice.append(region, HeaderValue::from_static("north"));
        assert!(good().check(&twice, r#"{"region":"north"}"#).is_err());
    }

    #[test]
    fn invalid_annotations_make_the_tool_invalid() {
        let with = |name: Value, kind: &str| param_headers(&json!({"a": {"type": kind, "x-mcp-header": name}}));
        assert!(with(json!("A"), "string").is_ok_and(|param_headers| param_headers.is_some()));
        for (name, kind) in [("", "string"), ("a b", "string"), ("a:b", "string"), ("ä", "string"), ("A", "number")] {
            assert!(with(json!(name), kind).is_err(), "{name:?} {kind}");
        }
        assert!(with(json!(7), "string").is_err() && with(json!("A"), "object").is_err());
        let one = json!({"type": "string", "x-mcp-header": "A"});
        assert!(param_headers(&json!({"a": one, "b": {"type": "string", "x-mcp-header": "a"}})).is_err(), "twice");
        assert!(param_headers(&json!({"a": {"type": "array", "items": one}})).is_err());
        assert!(param_headers(&json!({"a": {"oneOf": [one]}})).is_err());
        assert!(
            param_headers(&json!({"a": {"enum": [{"x-mcp-header": "A"}]}}))
                .is_ok_and(|param_headers| param_headers.is_none())
        );
        assert!(param_headers(&json!({"a": {"type": "string"}})).is_ok_and(|param_headers| param_headers.is_none()));
    }

    proptest! {
        #[test]
        fn what_is_made_is_accepted(region in ".*", floor in -1000_i64..1000) {
            let arguments = json!({"region": region, "at": {"floor": floor}}).to_string();
            prop_assert_eq!(good().check(&good().made(&arguments), &arguments), Ok(()));
        }
    }
}

//! `GET /metrics`: the metrics as OpenMetrics text, or as JSON for a client that accepts nothing else.
//!
//! Each room counts its own metrics. The JSON is made from the text, so both always agree.

use super::ApiState;
use crate::http::answer;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use linchpin_shared::problem::{Code, Problem};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The media type of OpenMetrics 1.0, which Prometheus reads.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A sample of a metric.
#[derive(Debug, PartialEq, Serialize)]
struct Sample<'t> {
    name: &'t str,
    labels: BTreeMap<&'t str, String>,
    value: f64,
}

pub(super) async fn metrics(State(api): State<Arc<ApiState>>, headers: HeaderMap) -> Response {
    api.links.refresh_metrics();
    let mut registry = Registry::default();
    api.links.register_metrics(&mut registry);
    api.gateway.register_metrics(&mut registry);
    let mut body = String::new();
    if let Err(error) = text::encode(&mut body, &registry) {
        return answer::problem(&Problem::new(Code::Internal, format!("cannot encode the metrics: {error}")));
    }
    if wants_json(&headers) {
        let samples: Vec<Sample<'_>> = body.lines().filter_map(sample).collect();
        return answer::json(&serde_json::json!({"metrics": samples}));
    }
    let headers = [(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).map(HeaderValue::to_str).is_some_and(|accept| {
        accept.is_ok_and(|accept| accept.contains("application/json") && !accept.contains("text/"))
    })
}

/// Parses the sample in a line; returns `None` for a comment. In the label `le="+Inf"` the value stays a string, while
/// values of samples are numbers.
fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (left, value) = line.rsplit_once(' ')?;
    let (name, labels) = left.split_once('{').map_or((left, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
    Some(Sample { name, labels: read_labels(labels), value: value.parse().ok()? })
}

/// Parses `key="value",…`, with `\\`, `\"` and `\n` as escapes in values.
fn read_labels(mut text: &str) -> BTreeMap<&str, String> {
    let mut labels = BTreeMap::new();
    while let Some((key, rest)) = text.split_once("=\"") {
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let mut end = rest.len();
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, other)) => other,
                    None => '\\',
                }),
                other => value.push(other),
            }
        }
        labels.insert(key, value);
        text = rest.get(end..).unwrap_or_default().trim_start_matches(',');
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_sample() {
        let read = |line| serde_json::to_value(sample(line)).unwrap();
        assert_eq!(
            read(r#"a_total{instance="shop",kind="x,\"y\"\\"} 3"#),
            serde_json::json!({"name": "a_total", "labels": {"instance": "shop", "kind": r#"x,"y"\"#}, "value": 3.0})
        );
        assert_eq!(read("b_sum 0.25"), serde_json::json!({"name": "b_sum", "labels": {}, "value": 0.25}));
        assert_eq!(sample("# TYPE a counter"), None);
        assert_eq!(sample("# EOF"), None);
    }

    #[test]
    fn json_is_for_clients_that_accept_nothing_else() {
        let accepting = |accept: &'static str| {
            wants_json(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(accepting("application/json") && !accepting("*/*") && !accepting("text/plain, application/json"));
        assert!(!wants_json(&HeaderMap::new()));
    }
}

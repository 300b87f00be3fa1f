//! Lists of tools that no server should return.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// Many more tools than any real server has.
const HUGE: usize = 100_000;

static PAGES: AtomicU64 = AtomicU64::new(0);

fn tool(name: &str) -> Value {
    json!({"name": name, "description": format!("{name} does something"), "inputSchema": {"type": "object"}})
}

/// One page; `None` where the list is refused although the capability was announced.
pub(crate) fn page(mode: &str, params: &Value) -> Option<Value> {
    let usual = ["echo", "act", "stats"].map(tool);
    let page = PAGES.fetch_add(1, Ordering::Relaxed);
    Some(match mode {
        "huge" => {
            let more = (0..HUGE).map(|number| tool(&format!("tool-{number}")));
            json!({"tools": usual.into_iter().chain(more).collect::<Vec<_>>()})
        }
        "circle" => {
            let next = if params["cursor"] == "a" { "b" } else { "a" };
            json!({"tools": [tool(&format!("t{page}"))], "nextCursor": next})
        }
        "endless" => json!({"tools": [tool(&format!("t{page}"))], "nextCursor": page.to_string()}),
        "names" => {
            let odd = ["echo", "echo", "", " ", "a b", "a\u{0}b", "é", "../../x", "hostile__echo", &"n".repeat(4000)];
            let odd = odd.map(tool).into_iter().chain([json!({}), json!({"name": 7}), json!(null)]);
            json!({"tools": usual.into_iter().chain(odd).collect::<Vec<_>>()})
        }
        "refused" => return None,
        "flaps" => json!({"tools": usual.into_iter().chain([tool(&format!("t{page}"))]).collect::<Vec<_>>()}),
        _ => json!({"tools": usual}),
    })
}

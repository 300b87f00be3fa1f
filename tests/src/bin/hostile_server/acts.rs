//! The misbehaviour of its tool `act`.

use super::{leave, put, send, text};
use serde_json::{Value, json};

/// Does what the argument `do` says, and answers the call with this id, or not.
pub(crate) fn act(id: &Value, params: &Value) {
    let (arguments, token) = (&params["arguments"], &params["_meta"]["progressToken"]);
    let right = || json!({"jsonrpc": "2.0", "id": id, "result": text("right")});
    match arguments["do"].as_str().unwrap_or_default() {
        "garbage" => {
            garbage();
            send(&right());
        }
        "ids" => {
            for other in [json!(0), json!("x"), json!(null), json!(-1), json!(1e300), json!(id.to_string())] {
                send(&json!({"jsonrpc": "2.0", "id": other, "result": text("wrong")}));
            }
            // The id as a float, twice, and then an error for it.
            put(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id}.0,\"result\":{}}}\n", text("right")).as_bytes());
            send(&json!({"jsonrpc": "2.0", "id": id, "result": text("wrong")}));
            send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": "wrong"}}));
        }
        "neither" => send(&json!({"jsonrpc": "2.0", "id": id})),
        "both" => send(&json!({"jsonrpc": "2.0", "id": id, "result": {}, "error": {"code": 1, "message": "x"}})),
        "deep" => {
            let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
            put(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"x\":{open}{close}}}}}\n").as_bytes());
        }
        "twice" => put(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}},\"result\":{{}}}}\n").as_bytes()),
        "bytes" => {
            put(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"x\":\"").as_bytes());
            put(b"\xff\xfe\"}}\n");
        }
        "half" => {
            put(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"resu").as_bytes());
            leave();
        }
        "line" => loop {
            put(&[b'x'; 1 << 16]);
        },
        "flood" => {
            flood(arguments["with"].as_str().unwrap_or_default(), arguments["times"].as_u64().unwrap_or(0), token);
            send(&right());
        }
        other => send(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": other}})),
    }
}

fn garbage() {
    put(b"Listening on port 3000\n\n\r\n   \n\x1b[31mred\x1b[0m\n\xff\xfe\x00\x01\n");
    put(b"{\"jsonrpc\":\"2.0\"\n[]\n[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}]\n42\nnull\n\"text\"\n{}\n");
    put(b"{\"jsonrpc\":\"2.0\",\"method\":7}\n{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":[]}\n");
    put(format!("{}\n", "[".repeat(100_000)).as_bytes());
}

/// Sends the same message this many times.
fn flood(with: &str, times: u64, token: &Value) {
    for n in 0..times {
        let message = match with {
            "log" => json!({"method": "notifications/message", "params": {"level": "error", "data": "x".repeat(100)}}),
            "progress" => {
                json!({"method": "notifications/progress", "params": {"progressToken": token, "progress": n}})
            }
            "strange" => json!({"method": "notifications/progress", "params": {"progressToken": n, "progress": n}}),
            "changed" => json!({"method": "notifications/tools/list_changed"}),
            "updated" => json!({"method": "notifications/resources/updated", "params": {"uri": format!("x://{n}")}}),
            "ping" => json!({"id": format!("p{n}"), "method": "ping"}),
            "ask" => json!({"id": n, "method": "roots/list"}),
            _ => json!({"method": "x/unknown", "params": {"n": n}}),
        };
        let mut message = message;
        message["jsonrpc"] = json!("2.0");
        send(&message);
    }
}

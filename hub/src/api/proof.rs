//! `GET /v1/proof`: the hub proves its identity before a client sends the token; see [`linchpin_shared::hub_file::proof`].

use super::ApiState;
use crate::http::answer;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use linchpin_shared::hub_file::proof::{NONCE, ProofAnswer, prove};
use linchpin_shared::problem::{Code, Problem};
use std::sync::Arc;

/// The longest nonce that is accepted. Ours have 44 characters.
const MAX_NONCE: usize = 128;

pub(super) async fn proof(State(api): State<Arc<ApiState>>, headers: HeaderMap) -> Response {
    let nonce = headers.get(NONCE).and_then(|nonce| nonce.to_str().ok()).filter(|nonce| nonce.len() <= MAX_NONCE);
    match nonce {
        Some(nonce) => answer::json(&ProofAnswer { proof: prove(&api.hub.token, nonce, &api.hub.url) }),
        None => answer::problem(
            &Problem::new(Code::BadRequest, format!("a proof requires the header {NONCE}"))
                .next("linchpin status    (requests the proof and checks it)"),
        ),
    }
}

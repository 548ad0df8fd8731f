//! The calls of the socket over HTTP: `POST /api/call/METHOD` with named parameters as JSON.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::gate::bearer;
use super::house::House;
use super::refusal::Refusal;
use crate::io::control::{Call, NotACall};
use crate::web::sessions::IDLE;

/// Calls that a session may make. A call that is in neither list does not get here: what is new is thought about first.
pub(super) const CALLS: &[&str] = &[
    "address",
    "new_address",
    "add",
    "invite",
    "invites",
    "withdraw",
    "contacts",
    "conversations",
    "group_create",
    "group_add",
    "group_remove",
    "group_leave",
    "group_rename",
    "accept",
    "block",
    "verify",
    "send",
    "read",
    "read_done",
    "state",
    "cancel",
    "timeline",
    "overview",
    "seen",
    "estimate",
    "status",
    "notices_seen",
    "rate",
    "network",
    "network_update",
];

/// Calls that no session may make: `send_file` reads any file that the daemon may read (the page uploads what it is
/// given), and `open_file` names a place on the disk (the page downloads); a session must not make sessions, nor end
/// the cover traffic; events have a stream of their own.
#[cfg(test)]
const NOT_HERE: &[&str] = &["send_file", "open_file", "web_link", "shutdown", "subscribe"];

/// Longest body of a call: a text of 1 MiB in which every byte is escaped, and room for names.
const BODY_MAX: usize = 8 << 20;
/// Longest body of an exchange: a token of 64 digits.
const TOKEN_BODY_MAX: usize = 1 << 10;

/// Carries out a call.
pub(super) async fn call(
    State(house): State<Arc<House>>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    if !CALLS.contains(&method.as_str()) {
        return Err(NotACall::Method(method).into());
    }
    let params: Map<String, Value> = json_body(&headers, body, BODY_MAX).await?;
    let call = Call::parse(&method, params)?;
    Ok(Json(house.daemon()?.call(call).await?))
}

/// The JSON of a body, which says that it is JSON: what a form of another page can send does not.
pub(super) async fn json_body<T: for<'a> Deserialize<'a>>(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<T, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let next = "say Content-Type: application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", "the body is not called JSON", next));
    }
    let bytes = bounded(body, limit).await?;
    serde_json::from_slice(&bytes).map_err(|error| NotACall::Params(error.to_string()).into())
}

/// A body as a whole.
pub(super) async fn bounded(body: Body, limit: usize) -> Result<axum::body::Bytes, Refusal> {
    to_bytes(body, limit).await.map_err(|_| {
        let message = format!("the body broke off, or is longer than {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body", &message, "send it whole, or in parts")
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    token: String,
}

/// Exchanges the token of a link for a session.
pub(super) async fn open_session(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Exchange { token } = json_body(&headers, body, TOKEN_BODY_MAX).await?;
    let session = house.exchange(&token).ok_or_else(|| {
        let next = "links are good once, for ten minutes: ask for a fresh one with shoal web";
        Refusal::new(StatusCode::UNAUTHORIZED, "bad_link", "the link was used, is too old, or was never made", next)
    })?;
    Ok(Json(json!({ "session": session, "idle_s": IDLE.as_secs() })))
}

/// Ends the session that asks.
pub(super) async fn end_session(State(house): State<Arc<House>>, headers: HeaderMap) -> Json<Value> {
    if let Some(session) = bearer(&headers) {
        house.end(session);
    }
    Json(json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::assets::ASSETS;

    #[test]
    fn every_call_is_either_here_or_not_and_the_description_says_the_same() {
        let mut lists: Vec<&str> = CALLS.iter().chain(NOT_HERE).copied().collect();
        let mut all = Call::METHODS.to_vec();
        lists.sort_unstable();
        all.sort_unstable();
        assert_eq!(lists, all);
        let text = ASSETS.iter().find(|asset| asset.path == "/openapi.json").unwrap().content;
        let description: Value = serde_json::from_str(text).unwrap();
        assert_eq!(description["openapi"], "3.1.0");
        let paths = description["paths"].as_object().unwrap();
        let mut described: Vec<&str> = paths.keys().filter_map(|path| path.strip_prefix("/api/call/")).collect();
        let mut here = CALLS.to_vec();
        described.sort_unstable();
        here.sort_unstable();
        assert_eq!(described, here);
    }
}

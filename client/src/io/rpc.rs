//! JSON-RPC 2.0 on the daemon's socket: one message a line, a batch is one line too.
//!
//! A call is `{"jsonrpc":"2.0","id":1,"method":"send","params":{"to":"bob","text":"hi"}}`; parameters are named. Its
//! answer is `{"jsonrpc":"2.0","id":1,"result":…}` or `{"jsonrpc":"2.0","id":1,"error":{"code","message","data"}}`; a
//! call without an id gets none. After `subscribe`, events come as notifications of the method `event`.
//! `client/README.md` lists all of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::control::{Call, NotACall};
use super::failure::{Exit, Failure};
use super::lines::EventLine;

/// Calls in one batch: what a screen asks for when it opens, several times over. Each answer is bounded by itself.
pub(super) const BATCH_MAX: usize = 64;
/// The method of events.
const EVENT: &str = "event";

/// A line that is not JSON.
const NO_JSON: i64 = -32_700;
/// JSON that is not a call.
const NO_CALL: i64 = -32_600;
const NO_METHOD: i64 = -32_601;
const BAD_PARAMS: i64 = -32_602;

/// The version of the protocol; any other is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Version {
    #[serde(rename = "2.0")]
    V2,
}

/// Why there is no result. What the daemon refuses has the exit code of a command as its code, which is positive; what
/// it does not understand has one of the protocol's, which are negative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) code: i64,
    message: String,
    data: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reason {
    code: String,
    next: String,
}

impl Refusal {
    fn protocol(code: i64, name: &str, message: String) -> Self {
        let next = "see client/README.md, The socket".to_owned();
        Self { code, message, data: Reason { code: name.to_owned(), next } }
    }

    fn no_call(message: impl Into<String>) -> Self {
        Self::protocol(NO_CALL, "bad_request", message.into())
    }

    /// A line longer than any call.
    pub(super) fn too_long(limit: usize) -> Self {
        Self::no_call(format!("the line is longer than {limit} bytes: it was passed over"))
    }

    /// Not in a batch.
    pub(super) fn alone() -> Self {
        Self::no_call("shutdown ends the connection and cannot be in a batch")
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let code = failure.exit.unwrap_or(Exit::Temporary).code().into();
        Self { code, message: failure.message, data: Reason { code: failure.code, next: failure.next } }
    }
}

impl From<NotACall> for Refusal {
    fn from(problem: NotACall) -> Self {
        let code = match problem {
            NotACall::Method(_) => NO_METHOD,
            NotACall::Params(_) => BAD_PARAMS,
        };
        let failure = Failure::from(problem);
        Self { code, ..failure.into() }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let exit = Exit::ALL.into_iter().find(|exit| i64::from(exit.code()) == refusal.code).unwrap_or(Exit::Usage);
        Self::new(exit, &refusal.data.code, refusal.message, refusal.data.next)
    }
}

/// One call of a line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    /// A number, a text or `null`, given back as it came; `None`: nobody waits for an answer.
    pub(super) id: Option<Value>,
    pub(super) call: Result<Call, Refusal>,
}

/// What one line holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Incoming {
    One(Ask),
    Batch(Vec<Ask>),
}

impl Incoming {
    /// Reads a line. What is no call becomes the refusal that its sender is told.
    pub(super) fn parse(line: &[u8]) -> Self {
        let value = match serde_json::from_slice(line) {
            Ok(value) => value,
            Err(error) => {
                let refusal = Refusal::protocol(NO_JSON, "bad_json", format!("not JSON: {error}"));
                return Self::One(Ask { id: Some(Value::Null), call: Err(refusal) });
            }
        };
        let Value::Array(calls) = value else { return Self::One(ask(value)) };
        match calls.len() {
            0 => Self::One(refused(Value::Null, "an empty batch")),
            1..=BATCH_MAX => Self::Batch(calls.into_iter().map(ask).collect()),
            _ => Self::One(refused(Value::Null, format!("a batch has at most {BATCH_MAX} calls"))),
        }
    }
}

fn refused(id: Value, why: impl Into<String>) -> Ask {
    Ask { id: Some(id), call: Err(Refusal::no_call(why)) }
}

fn ask(value: Value) -> Ask {
    let Value::Object(mut fields) = value else { return refused(Value::Null, "a call is an object") };
    let id = fields.remove("id");
    if let Some(id) = &id
        && !matches!(id, Value::Null | Value::Number(_) | Value::String(_))
    {
        return refused(Value::Null, "an id is a number, a text or null");
    }
    let shown = || id.clone().unwrap_or(Value::Null);
    if fields.remove("jsonrpc").as_ref() != Some(&Value::String("2.0".to_owned())) {
        return refused(shown(), "\"jsonrpc\":\"2.0\" is missing");
    }
    let Some(Value::String(method)) = fields.remove("method") else {
        return refused(shown(), "the method is missing");
    };
    let call = match fields.remove("params") {
        None => Call::parse(&method, Map::new()),
        Some(Value::Object(params)) => Call::parse(&method, params),
        Some(_) => Err(NotACall::Params("parameters are named: an object".to_owned())),
    };
    Ask { call: call.map_err(Refusal::from), id }
}

/// What the daemon writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Reply {
    /// Something happened.
    Event { jsonrpc: Version, method: String, params: EventLine },
    /// A call failed.
    Error { jsonrpc: Version, id: Value, error: Refusal },
    /// A call succeeded.
    Result { jsonrpc: Version, id: Value, result: Value },
    /// The answers to a batch.
    Batch(Vec<Reply>),
}

impl Reply {
    pub(super) fn event(params: EventLine) -> Self {
        Self::Event { jsonrpc: Version::V2, method: EVENT.to_owned(), params }
    }

    pub(super) fn to(id: Value, result: Result<Value, Refusal>) -> Self {
        let jsonrpc = Version::V2;
        match result {
            Ok(result) => Self::Result { jsonrpc, id, result },
            Err(error) => Self::Error { jsonrpc, id, error },
        }
    }
}

/// A call as [`super::Caller`] writes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Request {
    jsonrpc: Version,
    id: u64,
    #[serde(flatten)]
    call: Call,
}

impl Request {
    pub(super) fn new(id: u64, call: Call) -> Self {
        Self { jsonrpc: Version::V2, id, call }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::lines::SentLine;
    use crate::mail::MessageState;
    use proptest::prelude::*;
    use serde_json::json;

    fn one(text: &str) -> Ask {
        match Incoming::parse(text.as_bytes()) {
            Incoming::One(ask) => ask,
            Incoming::Batch(asks) => panic!("{asks:?}"),
        }
    }

    #[test]
    fn calls_have_the_documented_form() {
        for (text, call) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"address"}"#, Call::Address),
            (r#"{"jsonrpc":"2.0","id":1,"method":"address","params":{}}"#, Call::Address),
            (
                r#"{"method":"send","params":{"text":"","to":"bob"},"id":1,"jsonrpc":"2.0"}"#,
                Call::Send { to: "bob".into(), text: String::new() },
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"read"}"#, Call::Read { since: None, after: None }),
            (r#"{"jsonrpc":"2.0","id":1,"method":"read_done","params":{"cursor":9}}"#, Call::ReadDone { cursor: 9 }),
        ] {
            assert_eq!(one(text), Ask { id: Some(json!(1)), call: Ok(call) }, "{text}");
        }
        assert_eq!(one(r#"{"jsonrpc":"2.0","method":"address"}"#).id, None);
        assert_eq!(one(r#"{"jsonrpc":"2.0","id":"a","method":"address"}"#).id, Some(json!("a")));
    }

    #[test]
    fn what_is_no_call_is_told_apart_as_the_protocol_says() {
        for (text, code, id) in [
            ("rubbish", NO_JSON, Value::Null),
            (r#"{"jsonrpc":"2.0","id":1"#, NO_JSON, Value::Null),
            ("\u{0}", NO_JSON, Value::Null),
            ("7", NO_CALL, Value::Null),
            ("[]", NO_CALL, Value::Null),
            (r#"{"id":3,"method":"address"}"#, NO_CALL, json!(3)),
            (r#"{"jsonrpc":"1.0","id":3,"method":"address"}"#, NO_CALL, json!(3)),
            (r#"{"jsonrpc":"2.0","id":3}"#, NO_CALL, json!(3)),
            (r#"{"jsonrpc":"2.0","id":3,"method":7}"#, NO_CALL, json!(3)),
            (r#"{"jsonrpc":"2.0","id":{},"method":"address"}"#, NO_CALL, Value::Null),
            (r#"{"jsonrpc":"2.0","id":3,"method":"format_disk"}"#, NO_METHOD, json!(3)),
            (r#"{"jsonrpc":"2.0","id":3,"method":"send"}"#, BAD_PARAMS, json!(3)),
            (r#"{"jsonrpc":"2.0","id":3,"method":"send","params":["bob",""]}"#, BAD_PARAMS, json!(3)),
            (
                r#"{"jsonrpc":"2.0","id":3,"method":"send","params":{"to":"b","text":"","copy":1}}"#,
                BAD_PARAMS,
                json!(3),
            ),
            (r#"{"jsonrpc":"2.0","id":3,"method":"address","params":{"of":"bob"}}"#, BAD_PARAMS, json!(3)),
        ] {
            let ask = one(text);
            assert_eq!((ask.call.unwrap_err().code, ask.id), (code, Some(id)), "{text}");
        }
        let many = format!("[{}]", vec!["1"; BATCH_MAX + 1].join(","));
        assert_eq!(one(&many).call.unwrap_err().code, NO_CALL);
        let Incoming::Batch(asks) =
            Incoming::parse(br#"[1,{"jsonrpc":"2.0","method":"address"},{"jsonrpc":"2.0","id":2,"method":"status"}]"#)
        else {
            panic!("a batch")
        };
        assert_eq!(asks.iter().map(|ask| ask.call.is_ok()).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(asks[1].id, None);
    }

    #[test]
    fn replies_are_told_apart_and_a_failure_survives_the_socket() {
        let failure = Failure::new(Exit::Permission, "bad", "wrong", "do right");
        assert_eq!(Failure::from(Refusal::from(failure.clone())), failure);
        let state = SentLine { id: "x".into(), state: MessageState::Stored, waits_for: None, parts: None };
        for reply in [
            Reply::to(json!(3), Ok(json!({"address": "shoal1x"}))),
            Reply::to(json!(3), Ok(Value::Null)),
            Reply::to(json!(3), Err(failure.clone().into())),
            Reply::to(Value::Null, Err(Refusal::too_long(9))),
            Reply::event(EventLine::State(state)),
            Reply::event(EventLine::Missed(2)),
            Reply::Batch(vec![Reply::to(json!(3), Ok(json!({})))]),
        ] {
            let text = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply, "{text}");
        }
        let text = serde_json::to_string(&Reply::to(json!(3), Err(failure.into()))).unwrap();
        assert_eq!(
            text,
            r#"{"jsonrpc":"2.0","id":3,"error":{"code":77,"message":"wrong","data":{"code":"bad","next":"do right"}}}"#
        );
    }

    proptest! {
        #[test]
        fn any_text_survives_the_socket(to in ".*", text in "(?s).{0,300}", id: u64) {
            let call = Call::Send { to, text };
            let line = serde_json::to_string(&Request::new(id, call.clone())).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(one(&line), Ask { id: Some(json!(id)), call: Ok(call) });
        }

        #[test]
        fn any_line_is_parsed_or_refused(line: Vec<u8>, text in "(?s).{0,200}") {
            let _ = Incoming::parse(&line);
            let _ = Incoming::parse(text.as_bytes());
            let _ = serde_json::from_str::<Reply>(&text);
        }

        #[test]
        fn any_json_is_parsed_or_refused(method in "[a-z_]{0,12}", key in "[a-z]{0,6}", number: f64) {
            for value in [json!({ key.clone(): number }), json!(key), json!(null), json!([number])] {
                let call = json!({"jsonrpc": "2.0", "id": number, "method": method, "params": value});
                let _ = Incoming::parse(call.to_string().as_bytes());
            }
        }
    }
}

//! The web page's server without a network: who gets in, who does not, and that nothing asked of it makes it fail.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use shoal_client::io::{Call, Caller, Client, Web, WebError, serve, serve_with};
use shoal_client::mail::{Mail, RateClass};
use shoal_protocol::UnixMillis;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::network::{Founding, Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const DESCRIPTION: &str = include_str!("../openapi.json");

/// A network that nobody runs.
fn network() -> NetworkFile {
    let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
    NetworkFile {
        name: "nowhere".to_owned(),
        genesis_time: UnixMillis(1_750_000_000_000),
        authorities: vec![authority.public().clone()],
        parameters: Parameters::test_network(),
        founding: Founding::default(),
        hints: Hints::default(),
    }
}

fn create(dir: &Path, seed: u64) -> Mail {
    Mail::create(dir, &network(), RateClass::Normal, &mut StdRng::seed_from_u64(seed)).unwrap()
}

/// A daemon with its page.
struct Running {
    dir: TempDir,
    profile: PathBuf,
    address: SocketAddr,
    served: JoinHandle<std::io::Result<()>>,
    stop: Option<oneshot::Sender<()>>,
}

async fn running() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("ann");
    let client = Client::start(create(&profile, 2)).unwrap();
    let web = Web::open("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = web.address();
    let (ready, is_ready) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let folder = profile.clone();
    let served = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        serve_with(Some(web), client, &folder, || assert!(ready.send(()).is_ok()), stopped).await
    });
    is_ready.await.unwrap();
    Running { dir, profile, address, served, stop: Some(stop) }
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// One request on a connection of its own, written out: nothing is added that a browser or program did not say.
async fn ask(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut text = format!("{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    // what is refused by its head may be closed before its body is read
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let whole = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(whole.is_ok(), "no end: {line}");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer to {line}"));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = answer.split_off(end + 4);
    if head.contains("transfer-encoding: chunked") {
        body = unchunked(&body);
    }
    Answer { status, head, body }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        whole.extend(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
    whole
}

impl Running {
    fn host(&self) -> String {
        self.address.to_string()
    }

    async fn token(&self) -> String {
        let link: Value = Caller::connect(&self.profile).unwrap().call(Call::WebLink { address: None }).await.unwrap();
        let url = link["url"].as_str().unwrap().to_owned();
        let (page, token) = url.split_once('#').unwrap();
        assert_eq!(page, format!("http://{}/", self.address));
        token.to_owned()
    }

    async fn exchange(&self, token: &str) -> Answer {
        let body = json!({ "token": token }).to_string();
        let headers = [("Host", &*self.host()), ("Content-Type", "application/json")];
        ask(self.address, "POST /api/session", &headers, body.as_bytes()).await
    }

    async fn session(&self) -> String {
        let answer = self.exchange(&self.token().await).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        format!("Bearer {}", answer.json()["session"].as_str().unwrap())
    }

    async fn call(&self, session: &str, method: &str, params: Value) -> Answer {
        let headers = [("Host", &*self.host()), ("Content-Type", "application/json"), ("Authorization", session)];
        ask(self.address, &format!("POST /api/call/{method}"), &headers, params.to_string().as_bytes()).await
    }

    /// Stops it; the folder is the caller's.
    async fn stop(mut self) -> TempDir {
        drop(self.stop.take());
        self.served.await.unwrap().unwrap();
        self.dir
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_the_page_once_and_only_its_session_may_call() {
    let daemon = running().await;
    let token = daemon.token().await;
    assert_eq!(token.len(), 64);
    let session = daemon.exchange(&token).await;
    assert_eq!(session.status, 200);
    let replay = daemon.exchange(&token).await;
    assert_eq!((replay.status, replay.code().as_str()), (401, "bad_link"));
    let session = format!("Bearer {}", session.json()["session"].as_str().unwrap());
    let address = daemon.call(&session, "address", json!({})).await;
    assert!(address.json()["address"].as_str().unwrap().starts_with("shoal1"), "{address:?}");

    // neither nothing, nor the token, nor a guess
    let fresh = daemon.token().await;
    for wrong in ["", "Bearer", "Bearer ", &format!("Bearer {fresh}"), &format!("Bearer {}", "0".repeat(64)), &fresh] {
        let refused = daemon.call(wrong, "address", json!({})).await;
        assert_eq!((refused.status, refused.code().as_str()), (401, "no_session"), "{wrong}");
        assert!(refused.head.contains("www-authenticate: bearer"));
    }
    for guess in ["", "0", &"0".repeat(64), &token, "ü", &"9".repeat(900)] {
        assert_eq!(daemon.exchange(guess).await.status, 401, "{guess}");
    }
    // who is refused has not spent the link of who is not
    assert_eq!(daemon.exchange(&fresh).await.status, 200);

    let end = [("Host", &*daemon.host()), ("Authorization", &*session)];
    assert_eq!(ask(daemon.address, "POST /api/session/end", &end, b"").await.status, 200);
    assert_eq!(daemon.call(&session, "address", json!({})).await.status, 401);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_pages_and_other_names_get_nothing_whatever_they_know() {
    let daemon = running().await;
    let (session, host, port) = (daemon.session().await, daemon.host(), daemon.address.port());
    let json = ("Content-Type", "application/json");
    let localhost = format!("localhost:{port}");
    for (headers, status) in [
        (vec![("Host", &*host)], 200),
        (vec![("Host", &*host), ("Origin", &*format!("http://{host}")), ("Sec-Fetch-Site", "same-origin")], 200),
        (vec![("Host", &*localhost), ("Origin", &*format!("http://{localhost}"))], 200),
        // a name that was pointed here
        (vec![("Host", "evil.example")], 421),
        (vec![("Host", &*format!("evil.example:{port}")), ("Origin", "http://evil.example")], 421),
        (vec![("Host", "127.0.0.1")], 421),
        (vec![("Host", &*format!("127.0.0.2:{port}"))], 421),
        // another page makes the browser ask, even with a session that it cannot have
        (vec![("Host", &*host), ("Origin", "http://evil.example")], 403),
        (vec![("Host", &*host), ("Origin", "null")], 403),
        (vec![("Host", &*host), ("Origin", "http://127.0.0.1:1")], 403),
        (vec![("Host", &*host), ("Origin", &*format!("http://{host}")), ("Origin", "http://evil.example")], 403),
        (vec![("Host", &*host), ("Sec-Fetch-Site", "cross-site")], 403),
        (vec![("Host", &*host), ("Sec-Fetch-Site", "same-site")], 403),
        (vec![("Host", &*host), ("Sec-Fetch-Site", "none")], 403),
    ] {
        let mut all = headers.clone();
        all.extend([json, ("Authorization", &*session)]);
        let answer = ask(daemon.address, "POST /api/call/contacts", &all, b"{}").await;
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        assert!(!answer.head.contains("access-control"), "nobody is let in by CORS: {answer:?}");
    }
    // a form can send these without asking first, and none is taken for JSON
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        let headers = [("Host", &*host), ("Authorization", &*session), ("Content-Type", kind)];
        assert_eq!(ask(daemon.address, "POST /api/call/contacts", &headers, b"{}").await.status, 415, "{kind}");
    }
    // asking first is of no use
    let headers = [("Host", &*host), ("Origin", "http://evil.example"), ("Access-Control-Request-Method", "POST")];
    let preflight = ask(daemon.address, "OPTIONS /api/call/contacts", &headers, b"").await;
    assert_eq!(preflight.status, 403);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_shuts_the_page_off() {
    let daemon = running().await;
    let (session, host) = (daemon.session().await, daemon.host());
    for line in [
        "GET /",
        "GET /page/main.js",
        "GET /openapi.json",
        "GET /nothing",
        "GET /api/address.svg",
        "GET /api/files/7",
        "POST /",
    ] {
        let answer = ask(daemon.address, line, &[("Host", &*host), ("Authorization", &*session)], b"").await;
        for header in [
            "content-security-policy: ",
            "default-src 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-opener-policy: same-origin",
            "cross-origin-resource-policy: same-origin",
            "x-frame-options: deny",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(header), "{line}: {header} in {}", answer.head);
        }
        assert!(!answer.head.contains("unsafe") && !answer.head.contains("set-cookie"), "{}", answer.head);
    }
    let svg = ask(daemon.address, "GET /api/address.svg", &[("Host", &*host), ("Authorization", &*session)], b"").await;
    assert!(svg.head.contains("content-security-policy: sandbox"), "{}", svg.head);
    assert!(String::from_utf8_lossy(&svg.body).contains("<svg"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_do_what_the_socket_can_but_for_what_it_must_not() {
    let daemon = running().await;
    let session = daemon.session().await;
    let bob = create(&daemon.profile.with_file_name("bob"), 3).address();
    let added = daemon.call(&session, "add", json!({ "name": "bob", "address": bob })).await;
    assert_eq!((added.status, &added.json()["name"]), (200, &json!("bob")));
    let sent = daemon.call(&session, "send", json!({ "to": "bob", "text": "hi" })).await.json();
    assert_eq!(sent["state"], "queued");
    let headers = [("Host", &*daemon.host()), ("Authorization", &*session)];
    let line = "POST /api/files?to=bob&name=..%2Fa%20fish.png";
    let file = ask(daemon.address, line, &headers, b"\x89PNG").await;
    assert_eq!((file.status, &file.json()["state"]), (200, &json!("queued")));
    let page = daemon.call(&session, "timeline", json!({ "conversation": "bob" })).await.json();
    assert_eq!(page["entries"][0]["text"], "hi");
    assert_eq!(page["entries"][1]["file"], json!({ "name": "a fish.png", "size": 4, "path": null }));
    let overview = daemon.call(&session, "overview", json!({})).await.json();
    assert_eq!((&overview[0]["conversation"], &overview[0]["waiting"]), (&json!(bob), &json!(true)));
    // an own file is not here any more, and no path leads to one
    let cursor = page["entries"][1]["cursor"].as_u64().unwrap();
    for path in [&*format!("files/{cursor}"), "files/999", "files/..%2f..%2fprofile.key", "files/-1", "pictures/x"] {
        let refused = ask(daemon.address, &format!("GET /api/{path}"), &headers, b"").await;
        assert!([400, 404].contains(&refused.status), "{path}: {refused:?}");
    }
    for method in ["send_file", "web_link", "shutdown", "subscribe", "format_disk", "..", "%00"] {
        let refused = daemon.call(&session, method, json!({ "to": "bob", "path": "/etc/passwd" })).await;
        assert_eq!(refused.status, 404, "{method}: {refused:?}");
    }
    for (method, params, status, code) in [
        ("send", json!({ "to": "nobody", "text": "" }), 404, "unknown_contact"),
        ("send", json!({ "to": "bob" }), 400, "bad_params"),
        ("send", json!(["bob", ""]), 400, "bad_params"),
        ("send", json!({ "to": "bob", "text": "x".repeat((1 << 20) + 1) }), 413, "too_long"),
        ("send", json!({ "to": "bob", "text": "x".repeat(9 << 20) }), 413, "body"),
        ("state", json!({ "id": "x" }), 400, "bad_id"),
        ("network_update", json!({ "file": "x" }), 422, "bad_network_file"),
    ] {
        let refused = daemon.call(&session, method, params).await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{method}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_streamed_and_a_page_that_listens_does_not_hold_the_daemon() {
    let daemon = running().await;
    let session = daemon.session().await;
    let mut stream = TcpStream::connect(daemon.address).await.unwrap();
    let request = format!("GET /api/events HTTP/1.1\r\nHost: {}\r\nAuthorization: {session}\r\n\r\n", daemon.host());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let mut hear = async |what: &str| {
        while !heard.contains(what) {
            let mut chunk = [0; 4_096];
            let length = stream.read(&mut chunk).await.unwrap();
            assert_ne!(length, 0, "ended before {what}: {heard}");
            heard.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        }
    };
    hear("text/event-stream").await;
    let bob = create(&daemon.profile.with_file_name("bob"), 3).address();
    daemon.call(&session, "add", json!({ "name": "bob", "address": bob })).await;
    hear(r#"data: {"contact":{"name":"bob""#).await;
    let profile = daemon.profile.clone();
    let _dir = tokio::time::timeout(Duration::from_secs(10), daemon.stop()).await.expect("the daemon stops");
    Mail::open(&profile).expect("nobody holds it");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_loopback_is_served_and_a_daemon_without_a_page_begins_one_when_asked() {
    assert!(matches!(Web::open("0.0.0.0:0".parse().unwrap()).await, Err(WebError::NotLoopback(_))));
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("ann");
    let client = Client::start(create(&profile, 2)).unwrap();
    let (ready, is_ready) = oneshot::channel();
    let folder = profile.clone();
    let served =
        tokio::spawn(async move { serve(client, &folder, || ready.send(()).unwrap(), std::future::pending()).await });
    is_ready.await.unwrap();
    let mut caller = Caller::connect(&profile).unwrap();
    let refused = caller.call::<Value>(Call::WebLink { address: Some("192.0.2.1:80".parse().unwrap()) }).await;
    assert!(refused.unwrap_err().to_string().contains("loopback"));
    let mut pages = Vec::new();
    for _ in 0..2 {
        let link: Value = caller.call(Call::WebLink { address: None }).await.unwrap();
        pages.push(link["url"].as_str().unwrap().split('#').next().unwrap().to_owned());
    }
    assert_eq!(pages[0], pages[1], "one page a daemon");
    let _: Value = caller.call(Call::Shutdown).await.unwrap();
    caller.closed().await;
    served.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_profile_makes_one_on_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let web = Web::open("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, link) = (web.address(), web.link());
    let profile = dir.path().join("new");
    let folder = profile.clone();
    let made = tokio::spawn(async move { (web.make_profile(&folder).await, web) });
    let host = address.to_string();
    let json = ("Content-Type", "application/json");
    let body = json!({ "token": link.split('#').nth(1).unwrap() }).to_string();
    let session = ask(address, "POST /api/session", &[("Host", &*host), json], body.as_bytes()).await.json();
    let session = format!("Bearer {}", session["session"].as_str().unwrap());
    let headers = [("Host", &*host), json, ("Authorization", &*session)];
    let post = async |path: &str, body: Value| {
        ask(address, &format!("POST {path}"), &headers, body.to_string().as_bytes()).await
    };

    assert_eq!(ask(address, "GET /api/setup", &headers, b"").await.json()["needed"], true);
    assert_eq!(post("/api/call/status", json!({})).await.code(), "no_profile");
    assert_eq!(post("/api/setup/look", json!({ "file": "rubbish" })).await.code(), "bad_network_file");
    assert_eq!(post("/api/setup/look", json!({ "file": network().to_toml() })).await.code(), "no_gateway");
    let mut usable = network();
    let identity = AuthoritySecret::generate(&mut StdRng::seed_from_u64(9)).identity_key().identity();
    usable.hints.gateways.push(Hint { identity, address: "127.0.0.1:9".parse().unwrap() });
    let file = usable.to_toml();
    let seen = post("/api/setup/look", json!({ "file": file })).await.json();
    assert_eq!(seen["fingerprint"], usable.fingerprint_words());
    assert!(seen["monthly_bytes"]["low"].as_u64() < seen["monthly_bytes"]["normal"].as_u64());
    assert_eq!(post("/api/setup", json!({ "file": file, "class": "fast" })).await.code(), "bad_params");
    let new = post("/api/setup", json!({ "file": file, "class": "low" })).await;
    assert_eq!(new.status, 200, "{new:?}");
    let (mail, _web) = made.await.unwrap();
    assert_eq!(
        (mail.address(), mail.rate_class()),
        (new.json()["address"].as_str().unwrap().to_owned(), RateClass::Low)
    );
    assert_eq!(post("/api/setup", json!({ "file": file, "class": "low" })).await.code(), "profile_exists");
    assert!(profile.join("profile.key").exists());
}

/// A request made of what the description says, of what is near it, and of rubbish.
fn requests() -> impl Strategy<Value = (String, &'static str, Vec<u8>)> {
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    let paths = description["paths"].as_object().unwrap().clone();
    let operations: Vec<(String, String, Value)> = paths
        .into_iter()
        .flat_map(|(path, operations)| {
            let operations = operations.as_object().unwrap().clone();
            operations.into_iter().map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
        })
        // a stream does not end, and the session is still needed
        .filter(|(_, path, _)| path != "/api/events" && path != "/api/session/end")
        .collect();
    let word = || {
        prop_oneof![
            Just("bob".to_owned()),
            Just("0".repeat(32)),
            Just("shoal1".to_owned()),
            Just(String::new()),
            ".{0,40}",
            "[0-9a-f]{64}",
            "-?[0-9]{1,25}",
        ]
    };
    let value = || {
        prop_oneof![
            3 => word().prop_map(Value::from),
            2 => any::<u64>().prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => any::<f64>().prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
            1 => Just(Value::Null),
            1 => proptest::collection::vec(any::<u8>().prop_map(Value::from), 0..4).prop_map(Value::from),
        ]
    };
    (0..operations.len(), proptest::collection::vec((value(), any::<u8>()), 6), word(), any::<[u8; 24]>(), 0..9u8)
        .prop_map(move |(at, values, text, bytes, turn)| {
            let (method, path, operation) = &operations[at];
            let escape = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02x}")).collect() };
            let mut path = path.replace("{cursor}", &escape(&text));
            if path == "/api/files" {
                path = format!("{path}?to={}&name={}", escape(&text), escape(&text));
            }
            let method = if turn == 0 { "PUT" } else { method };
            let names = operation["requestBody"]["content"]["application/json"]["schema"]["properties"].as_object();
            let mut params = serde_json::Map::new();
            for ((name, _), (value, leave)) in names.into_iter().flatten().zip(&values) {
                if leave % 6 != 0 {
                    params.insert(name.clone(), value.clone());
                }
            }
            if turn == 1 {
                params.insert(text, Value::Null);
            }
            let body = match turn {
                2 => bytes.to_vec(),
                3 => values[0].0.to_string().into_bytes(),
                _ => Value::Object(params).to_string().into_bytes(),
            };
            (format!("{method} {path}"), if turn == 4 { "text/plain" } else { "application/json" }, body)
        })
}

#[test]
fn whatever_is_asked_the_answer_is_no_fault() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (daemon, session) = runtime.block_on(async {
        let daemon = running().await;
        let session = daemon.session().await;
        let bob = create(&daemon.profile.with_file_name("bob"), 3).address();
        daemon.call(&session, "add", json!({ "name": "bob", "address": bob })).await;
        (daemon, session)
    });
    let host = daemon.host();
    // the full size is in tests/README.md
    let cases = std::env::var("SHOAL_REQUESTS").ok().and_then(|count| count.parse().ok()).unwrap_or(1_500);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let asked = runner.run(&requests(), |(line, kind, body)| {
        let headers = [("Host", &*host), ("Content-Type", kind), ("Authorization", &*session)];
        let answer = runtime.block_on(ask(daemon.address, &line, &headers, &body));
        // nobody can found a group before a document of the network is here, and this client has no network
        let too_early = answer.status == 503 && answer.json()["error"]["code"] == "no_document";
        prop_assert!(answer.status < 500 || too_early, "{line} {}: {answer:?}", String::from_utf8_lossy(&body));
        if answer.status >= 400 && !line.starts_with("HEAD") {
            let error = answer.json();
            prop_assert!(error["error"]["next"].is_string(), "{line}: {error}");
        }
        Ok(())
    });
    asked.unwrap();
    // it is still well
    let address = runtime.block_on(daemon.call(&session, "address", json!({})));
    assert_eq!(address.status, 200);
    runtime.block_on(daemon.stop());
}

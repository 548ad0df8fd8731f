//! The daemon on its socket, without a network: what commands and programs see.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use shoal_client::io::{
    Call, Caller, CallerError, Client, Condition, ContactLine, EventLine, Page, SentLine, Status, WaitsFor, serve,
    socket_path,
};
use shoal_client::mail::{Mail, MessageState, RateClass};
use shoal_client::view::Freshness;
use shoal_protocol::UnixMillis;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::network::{Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A network that nobody runs.
fn network() -> NetworkFile {
    let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
    NetworkFile {
        name: "nowhere".to_owned(),
        genesis_time: UnixMillis(1_750_000_000_000),
        authorities: vec![authority.public().clone()],
        parameters: Parameters::test_network(),
        founding: shoal_protocol::network::Founding::default(),
        hints: Hints::default(),
    }
}

fn create(dir: &Path, seed: u64) -> Mail {
    Mail::create(dir, &network(), RateClass::Normal, &mut StdRng::seed_from_u64(seed)).unwrap()
}

struct Running {
    profile: PathBuf,
    served: JoinHandle<std::io::Result<()>>,
    stop: Option<oneshot::Sender<()>>,
}

async fn start(mail: Mail, profile: &Path) -> Running {
    let client = Client::start(mail).unwrap();
    let (ready, is_ready) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let folder = profile.to_owned();
    let served = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        serve(client, &folder, || assert!(ready.send(()).is_ok()), stopped).await
    });
    is_ready.await.unwrap();
    Running { profile: profile.to_owned(), served, stop: Some(stop) }
}

impl Running {
    fn caller(&self) -> Caller {
        Caller::connect(&self.profile).unwrap()
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        self.served.await.unwrap().unwrap();
    }
}

/// Says lines on a connection of their own and hears so many.
async fn raw(daemon: &Running, lines: Vec<String>, count: usize) -> Vec<Value> {
    let profile = daemon.profile.clone();
    let talk = move || {
        let mut stream = UnixStream::connect(socket_path(&profile)).unwrap();
        for line in lines {
            stream.write_all(line.as_bytes()).unwrap();
            stream.write_all(b"\n").unwrap();
        }
        let lines = BufReader::new(stream).lines().take(count);
        lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()).collect()
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

async fn running(dir: &TempDir) -> Running {
    let profile = dir.path().join("ann");
    start(create(&profile, 2), &profile).await
}

fn bob(dir: &TempDir) -> String {
    create(&dir.path().join("bob"), 3).address()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_without_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = running(&dir).await;
    let mode = std::fs::metadata(socket_path(&daemon.profile)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut caller = daemon.caller();
    let address: Value = caller.call(Call::Address).await.unwrap();
    assert!(address["address"].as_str().unwrap().starts_with("shoal1"));
    let add = Call::Add { name: "bob".to_owned(), address: bob(&dir) };
    let contact: Value = caller.call(add).await.unwrap();
    assert_eq!(
        (&contact["name"], &contact["request"], &contact["blocked"]),
        (&json!("bob"), &json!(false), &json!(false))
    );
    let contacts: Vec<Value> = caller.call(Call::Contacts).await.unwrap();
    assert_eq!(contacts, [contact]);

    let send = Call::Send { to: "bob".to_owned(), text: "x".repeat(100_000) };
    let sent: SentLine = caller.call(send).await.unwrap();
    assert_eq!(sent.state, MessageState::Queued);
    let state: SentLine = caller.call(Call::State { id: sent.id.clone() }).await.unwrap();
    assert_eq!((state.state, state.waits_for), (sent.state, sent.waits_for));
    assert_eq!(state.parts.map(|parts| (parts.written, parts.all > 50)), Some((0, true)), "100 kB of text");
    // a first message says what it waits for
    assert_eq!(sent.waits_for, Some(WaitsFor::Card));
    let contacts: Vec<ContactLine> = caller.call(Call::Contacts).await.unwrap();
    assert!(contacts[0].waiting_since.is_some());
    let status: Status = caller.call(Call::Status).await.unwrap();
    assert_eq!(status.waiting.iter().map(|waiting| waiting.name.as_str()).collect::<Vec<_>>(), ["bob"]);
    assert_eq!((status.connected, status.queue, status.epoch), (false, 1, None));
    let page: Page = caller.call(Call::Read { since: None, after: None }).await.unwrap();
    assert_eq!(page, Page::default());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_against_the_authorities_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("ann");
    let mut mail = create(&profile, 2);
    let before = start(mail, &profile).await;
    let status: Status = before.caller().call(Call::Status).await.unwrap();
    assert!(!status.conflict && !status.rolled_back);
    assert_eq!((status.state, status.document), (Condition::Offline, Freshness::None), "good is said of nothing");
    assert_eq!(status.fingerprint, network().fingerprint_words());
    assert!(status.cause.is_some() && !status.next.is_empty(), "{status:?}");
    before.stop().await;
    let files = profile.join("conflict");
    std::fs::create_dir(&files).unwrap();
    mail = Mail::open(&profile).unwrap();
    let after = start(mail, &profile).await;
    let mut caller = after.caller();
    // the first state is published a moment after the socket is there
    let status = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let status: Status = caller.call(Call::Status).await.unwrap();
            if status.conflict {
                return status;
            }
        }
    });
    let status = status.await.unwrap();
    assert_eq!((status.state, status.conflict_files.as_ref()), (Condition::Stopped, Some(&files)));
    assert!(status.next.contains(files.to_str().unwrap()), "{}", status.next);
    after.stop().await;
    // the way out: the folder goes
    std::fs::remove_dir(&files).unwrap();
    let again = start(Mail::open(&profile).unwrap(), &profile).await;
    let status: Status = again.caller().call(Call::Status).await.unwrap();
    assert!(!status.conflict && status.state == Condition::Offline);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_to_do_and_the_connection_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = running(&dir).await;
    let mut caller = daemon.caller();
    for (call, code) in [
        (Call::Send { to: "nobody".to_owned(), text: String::new() }, "unknown_contact"),
        (Call::State { id: "x".to_owned() }, "bad_id"),
        (Call::Read { since: Some("0".repeat(32)), after: None }, "unknown_message"),
        (Call::SendFile { to: "nobody".to_owned(), path: "/".into() }, "not_a_file"),
        (Call::SendFile { to: "nobody".to_owned(), path: dir.path().join("none") }, "file"),
    ] {
        let Err(CallerError::Refused(failure)) = caller.call::<Value>(call.clone()).await else { panic!("{call:?}") };
        assert_eq!(failure.code, code);
        assert!(!failure.next.is_empty());
    }

    let lines = [
        "rubbish",
        r#"{"id":5,"method":"address"}"#,
        r#"{"jsonrpc":"2.0","id":6,"method":"fly"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"state","params":{"id":1}}"#,
        r#"{"jsonrpc":"2.0","method":"subscribe"}"#,
        r#"{"jsonrpc":"2.0","id":"eight","method":"address"}"#,
        r#"[{"jsonrpc":"2.0","id":9,"method":"state","params":{"id":"x"}},7,{"jsonrpc":"2.0","method":"status"}]"#,
    ];
    let replies = raw(&daemon, lines.map(str::to_owned).to_vec(), 6).await;
    let codes: Vec<&Value> = replies.iter().map(|reply| &reply["error"]["code"]).collect();
    assert_eq!(codes[..4], [&json!(-32_700), &json!(-32_600), &json!(-32_601), &json!(-32_602)]);
    assert_eq!(
        replies[..4].iter().map(|reply| &reply["id"]).collect::<Vec<_>>(),
        [&json!(null), &json!(5), &json!(6), &json!(7)]
    );
    // what is no call loses nothing of what comes behind it, and a call without an id has no answer
    assert_eq!((&replies[4]["id"], &replies[4]["jsonrpc"]), (&json!("eight"), &json!("2.0")));
    let batch = replies[5].as_array().unwrap();
    assert_eq!(batch.iter().map(|reply| &reply["id"]).collect::<Vec<_>>(), [&json!(9), &json!(null)]);
    assert_eq!(batch[0]["error"]["code"], json!(64), "the exit code of the command");
    assert_eq!(batch[0]["error"]["data"]["code"], json!("bad_id"));
    assert!(batch[0]["error"]["data"]["next"].is_string());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_who_subscribed() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = running(&dir).await;
    let mut listener = daemon.caller();
    let _: Value = listener.call(Call::Subscribe).await.unwrap();
    let add = Call::Add { name: "bob".to_owned(), address: bob(&dir) };
    let _: Value = daemon.caller().call(add).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(10), listener.event()).await.unwrap().unwrap();
    assert!(matches!(event, EventLine::Contact(contact) if contact.name == "bob"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_too_long_is_passed_over_and_events_are_notifications() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = running(&dir).await;
    let add = json!({"jsonrpc": "2.0", "id": 2, "method": "add", "params": {"name": "bob", "address": bob(&dir)}});
    let lines = vec![
        "x".repeat((16 << 20) + 1),
        r#"{"jsonrpc":"2.0","id":1,"method":"subscribe"}"#.to_owned(),
        add.to_string(),
    ];
    let replies = raw(&daemon, lines, 4).await;
    assert_eq!((&replies[0]["error"]["code"], &replies[0]["id"]), (&json!(-32_600), &json!(null)));
    assert_eq!((&replies[1]["id"], &replies[2]["id"]), (&json!(1), &json!(2)));
    assert_eq!((&replies[3]["method"], replies[3].get("id")), (&json!("event"), None));
    assert_eq!(replies[3]["params"]["contact"]["name"], json!("bob"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_frees_the_profile_and_what_was_queued_is_still_there() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = running(&dir).await;
    let mut caller = daemon.caller();
    let add = Call::Add { name: "bob".to_owned(), address: bob(&dir) };
    let _: Value = caller.call(add).await.unwrap();
    let send = Call::Send { to: "bob".to_owned(), text: "kept".to_owned() };
    let sent: SentLine = caller.call(send).await.unwrap();

    let idle = daemon.caller();
    let _: Value = caller.call(Call::Shutdown).await.unwrap();
    caller.closed().await;
    // the connection ends only when the profile is free
    let mail = Mail::open(&daemon.profile).unwrap();
    idle.closed().await;
    daemon.served.await.unwrap().unwrap();
    assert!(!socket_path(&daemon.profile).exists());

    let again = start(mail, &daemon.profile).await;
    let state: SentLine = again.caller().call(Call::State { id: sent.id.clone() }).await.unwrap();
    assert_eq!(state, sent);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_in_a_deep_folder_has_a_socket_too() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("deep".repeat(40));
    let daemon = start(create(&profile, 4), &profile).await;
    let _: Value = daemon.caller().call(Call::Address).await.unwrap();
    // what a dead daemon leaves behind is replaced
    daemon.stop().await;
    std::fs::write(socket_path(&profile), b"").unwrap();
    let daemon = start(Mail::open(&profile).unwrap(), &profile).await;
    let _: Value = daemon.caller().call(Call::Address).await.unwrap();
    daemon.stop().await;
}

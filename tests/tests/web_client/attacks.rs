//! Row 27: another user of the machine, and other pages in the owner's browser.

use crate::page::Page;
use serde_json::{Value, json};
use shoal_tests::browser::Browser;
use shoal_tests::testnet::Testnet;
use shoal_tests::{binary, until};
use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A command of the user `nobody`.
fn as_nobody(program: &Path, arguments: &[&str]) -> Output {
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let output = Command::new("setpriv").args(user).arg(program).args(arguments).output();
    output.expect("setpriv runs: the suite needs root and util-linux")
}

/// What `nobody` is answered when it asks the page's server.
fn nobody_asks(host: &str, line: &str, headers: &str, body: &str) -> String {
    let (address, port) = host.split_once(':').expect("host and port");
    let request = format!(
        "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let script = format!("exec 3<>/dev/tcp/{address}/{port} && printf %s \"$1\" >&3 && cat <&3");
    let output = as_nobody(Path::new("/bin/bash"), &["-c", &script, "bash", &request]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn row_27_another_user_and_another_page_get_nothing() {
    let net = Testnet::start(&["--epoch", "20s"]);
    let folder = tempfile::tempdir().expect("folder");
    // whoever may walk there still has the profile's own walls before him
    mode(folder.path(), 0o755);
    let shoal = folder.path().join("shoal");
    std::fs::copy(binary("shoal"), &shoal).expect("a copy that everybody may run");
    mode(&shoal, 0o755);
    let profile = folder.path().join("ann");
    let init = ["init", "--network", &net.ready.network.to_string_lossy()].map(str::to_owned);
    let made = Command::new(&shoal).arg("--profile").arg(&profile).args(init).output().expect("init");
    assert!(made.status.success(), "{made:?}");
    let page = Page::up(&profile);
    let (ready, link) = page.said();
    assert!(ready);
    another_user_reaches_neither_socket_nor_calls(&page, &shoal, &link);
    another_page_reaches_nothing(&page);
}

fn another_user_reaches_neither_socket_nor_calls(page: &Page, shoal: &Path, link: &str) {
    eprintln!("another user");
    let ask = || {
        let output = as_nobody(shoal, &["--profile", &page.profile.to_string_lossy(), "address", "--json"]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = ask();
    assert!(code != Some(0) && !said.contains("shoal1"), "the folder is closed: {code:?} {said}");
    // were folder and socket open by mistake, the daemon would still look who it is
    let socket = page.profile.join("control.sock");
    mode(&page.profile, 0o755);
    mode(&socket, 0o666);
    let (code, said) = ask();
    assert!(code != Some(0) && !said.contains("shoal1"), "the daemon looks who asks: {code:?} {said}");
    for file in ["profile.key", "profile.db"] {
        let read = as_nobody(Path::new("/bin/cat"), &[&page.profile.join(file).to_string_lossy()]);
        assert!(!read.status.success() && read.stdout.is_empty(), "{file}");
    }
    mode(&socket, 0o600);
    mode(&page.profile, 0o700);

    let host = link.trim_start_matches("http://").split('/').next().expect("host").to_owned();
    let token = link.split('#').nth(1).expect("token").to_owned();
    // what everybody may have: a page without anything in it
    assert!(nobody_asks(&host, "GET /", "", "").starts_with("HTTP/1.1 200"));
    let description: Value =
        serde_json::from_str(include_str!("../../../client/openapi.json")).expect("the description is JSON");
    for (path, operations) in description["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            if path == "/api/session" {
                continue;
            }
            let line = format!("{} {}", method.to_uppercase(), path.replace("{cursor}", "1"));
            let guess = format!("Authorization: Bearer {}\r\n", "0123456789abcdef".repeat(4));
            for headers in ["", &guess] {
                let answer = nobody_asks(&host, &line, headers, "{}");
                assert!(answer.starts_with("HTTP/1.1 401"), "{line}: {answer}");
            }
        }
    }
    for guess in ["", &"0".repeat(64), &token.to_uppercase().replace(char::is_numeric, "7")] {
        let answer = nobody_asks(&host, "POST /api/session", "", &json!({ "token": guess }).to_string());
        assert!(answer.starts_with("HTTP/1.1 401"), "{guess}: {answer}");
    }
    // the token is in nobody's sight: not among what processes were started with
    let everybody =
        as_nobody(Path::new("/bin/sh"), &["-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null"]);
    assert!(!String::from_utf8_lossy(&everybody.stdout).contains(&token));
}

/// A page elsewhere that tries everything a page can, and a name that is pointed at this machine.
fn another_page_reaches_nothing(page: &Page) {
    eprintln!("another page");
    let mut browser = Browser::start(&["--host-resolver-rules=MAP evil.example 127.0.0.1"]);
    let link = page.link();
    let ours = link.split('/').take(3).collect::<Vec<_>>().join("/");
    let owner = browser.open(&link, (1_000, 700));
    browser.until(&owner, "the owner is in", SOON, "document.querySelector('#my-address')");
    assert_eq!(browser.evaluate(&owner, "location.hash"), "", "the token is gone from the address");
    // the link was used: whoever finds it in a history comes too late
    let late = browser.open(&link, (800, 600));
    browser.until(&late, "the link is void", SOON, "document.body.innerText.includes('he link was used')");

    let hits = Arc::new(AtomicUsize::new(0));
    let evil = serve_evil(&ours, Arc::clone(&hits));
    let other = browser.open(&format!("http://127.0.0.1:{evil}/"), (800, 600));
    browser.until(&other, "the other page has tried", SOON, "window.outcome && window.outcome.length >= 7");
    let outcome = browser.evaluate(&other, "window.outcome");
    for tried in outcome.as_array().expect("a list") {
        let text = tried.as_str().expect("text");
        assert!(text.ends_with("refused"), "{outcome}");
    }
    assert!(hits.load(Ordering::Relaxed) > 0, "the page was really served");
    // by a name of its own, on our port: the same origin for the browser, and still nothing
    let port = ours.rsplit(':').next().expect("port");
    let rebound = browser.open(&format!("http://evil.example:{port}/"), (800, 600));
    browser.until(&rebound, "the name is refused", SOON, "document.body.innerText.length > 0");
    let body = browser.evaluate(&rebound, "document.body.innerText");
    assert!(!body.as_str().unwrap_or_default().contains("Opening"), "{body}");
    let call = "fetch('/api/call/address', { method: 'POST', headers: { 'Content-Type': 'application/json' }, \
         body: '{}' }).then((answer) => answer.status)";
    assert_eq!(browser.evaluate(&rebound, call), 421);
    // nothing came of all that
    let contacts = until("contacts can be listed", SOON, || {
        let expression = "fetch('/api/call/contacts', { method: 'POST', headers: { 'Content-Type': 'application/json', \
             Authorization: 'Bearer ' + sessionStorage.getItem('shoal-session') }, body: '{}' }).then((a) => a.json())";
        let contacts = browser.evaluate(&owner, expression);
        contacts.is_array().then_some(contacts)
    });
    assert_eq!(contacts, json!([]), "nobody was added");
    assert_eq!(browser.evaluate(&other, "document.cookie"), "", "there is no cookie to be sent along");
}

/// Serves one page on a port of its own; returns the port.
fn serve_evil(ours: &str, hits: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    let page = EVIL.replace("OURS", ours);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            hits.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read(&mut [0; 8_192]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: ";
            let _ = stream.write_all(format!("{head}{}\r\n\r\n{page}", page.len()).as_bytes());
        }
    });
    port
}

/// Reads, writes, sends a form, frames, and looks into a window that it opened.
const EVIL: &str = r#"<!doctype html><body><script>
const ours = "OURS", add = JSON.stringify({ name: "mallory", address: "shoal1x" });
window.outcome = [];
const note = (what, got) => outcome.push(`${what}: ${got}`);
const json = { "Content-Type": "application/json" };
const attempt = (what, promise) => promise.then(() => note(what, "ALLOWED"), () => note(what, "refused"));
attempt("read the page", fetch(ours + "/"));
attempt("read calls", fetch(ours + "/api/call/contacts", { method: "POST", headers: json, body: "{}" }));
const known = { method: "POST", headers: json, body: "{}", credentials: "include" };
attempt("with credentials", fetch(ours + "/api/call/contacts", known));
attempt("exchange", fetch(ours + "/api/session", { method: "POST", headers: json, body: "{}" }));
const opaque = fetch(ours + "/api/call/add", { method: "POST", mode: "no-cors", body: add });
const blind = (answer) => note("blind post", answer.type === "opaque" ? "refused" : "ALLOWED");
opaque.then(blind, () => note("blind post", "refused"));
const frame = document.createElement("iframe");
frame.src = ours + "/";
frame.onload = () => {
  let inside = "refused";
  try { if (frame.contentDocument?.body.innerText.includes("Shoal")) inside = "ALLOWED"; } catch {}
  note("frame", inside);
};
document.body.append(frame);
const form = Object.assign(document.createElement("form"), { action: ours + "/api/call/add", method: "post" });
Object.assign(form, { enctype: "text/plain", target: "sink" });
form.append(Object.assign(document.createElement("input"), { name: add.slice(0, -1) + ',"x":"', value: '"}' }));
const sink = Object.assign(document.createElement("iframe"), { name: "sink" });
document.body.append(sink, form);
form.submit();
const image = new Image();
image.onload = () => note("picture", "ALLOWED");
image.onerror = () => note("picture", "refused");
image.src = ours + "/page/icon.svg";
</script></body>"#;

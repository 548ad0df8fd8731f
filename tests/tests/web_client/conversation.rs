//! People write to each other: one of them in a browser, from the first start on.

use crate::page::Page;
use serde_json::Value;
use shoal_tests::browser::{Browser, Tab};
use shoal_tests::person::Person;
use shoal_tests::testnet::Testnet;
use shoal_tests::until;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// Expected about 2 s on a test network; room for a loaded machine.
const ARRIVAL: Duration = Duration::from_secs(180);

/// Where pictures of the page go, to be looked at.
fn pictures() -> PathBuf {
    let folder =
        std::env::var_os("SHOAL_PICTURES").map_or_else(|| std::env::temp_dir().join("shoal-web"), PathBuf::from);
    std::fs::create_dir_all(&folder).expect("folder for pictures");
    folder
}

fn says(text: &str) -> String {
    format!("document.body.innerText.includes({})", Value::from(text))
}

/// The page's picture in light and dark, wide and narrow.
fn draw(browser: &mut Browser, tab: &Tab, name: &str) {
    for scheme in ["light", "dark"] {
        browser.prefer(tab, scheme);
        for (width, size) in [("wide", (1_200, 800)), ("narrow", (360, 740))] {
            browser.resize(tab, size);
            browser.evaluate(tab, "new Promise((done) => setTimeout(done, 300))");
            let wide = browser.evaluate(tab, "document.documentElement.scrollWidth <= innerWidth");
            assert_eq!(wide, true, "{name}: nothing reaches beyond {} px", size.0);
            browser.draw(tab, &pictures().join(format!("{name}-{scheme}-{width}.png")));
        }
    }
    browser.prefer(tab, "light");
    browser.resize(tab, (1_200, 800));
}

/// A small picture that is really one: the browser draws it.
fn png(browser: &mut Browser, tab: &Tab, file: &Path) {
    browser.resize(tab, (320, 240));
    browser.draw(tab, file);
    browser.resize(tab, (1_200, 800));
}

#[test]
fn somebody_begins_and_writes_in_a_browser() {
    let mut net = Testnet::start(&["--epoch", "20s"]);
    let folder = tempfile::tempdir().expect("folder");
    let bob = Person::new("bob", folder.path(), &net.ready.network);
    let page = Page::up(&folder.path().join("ann"));
    let (ready, link) = page.said();
    assert!(!ready, "there is no profile yet");
    let mut browser = Browser::start(&[]);
    let tab = browser.open(&link, (1_200, 800));

    first_start(&mut browser, &tab, &net);
    assert!(page.said().0, "the daemon follows by itself");
    let address = own_address(&mut browser, &tab);
    request_of_a_stranger(&mut browser, &tab, &bob, &address);
    chat_both_ways(&mut browser, &tab, &bob, &page);
    markup_stays_text(&mut browser, &tab, &bob);
    pictures_both_ways(&mut browser, &tab, &bob, folder.path());
    a_contact_is_added_by_keyboard(&mut browser, &tab, &net, folder.path());
    verified_by_number(&mut browser, &tab, &bob);
    a_group(&mut browser, &tab, &bob);
    other_addresses(&mut browser, &tab, &bob, &address);
    // but for the address that was refused, and what is no picture, each time it is drawn, nothing went wrong in the page
    let complaints = browser.complaints();
    let expected = |line: &String| {
        line.contains("/api/call/add") || line.contains("415") && line.contains("/api/pictures/") || starting(line)
    };
    assert!(complaints.iter().all(expected), "{complaints:?}");
    a_warning_comes_before_what_is_sent(&mut browser, &tab, &mut net, &bob);
    offline_and_back(&mut browser, &tab, &mut net, &bob);
    the_session_ends(&mut browser, &tab, &page);
    eprintln!("pictures of the page: {}", pictures().display());
}

fn first_start(browser: &mut Browser, tab: &Tab, net: &Testnet) {
    eprintln!("first start");
    browser.until(tab, "the page welcomes", SOON, &says("Welcome to Shoal"));
    browser.choose(tab, "input[type=file]", &net.ready.network);
    browser.until(tab, "the network is named", SOON, &says("Compare these words"));
    draw(browser, tab, "1-first-start");
    browser.click(tab, "#make-profile");
    browser.until(tab, "the profile is there", SOON, "document.querySelector('#my-address')");
    browser.until(tab, "the bar says connected", ARRIVAL, "document.querySelector('#condition.good')");
}

fn own_address(browser: &mut Browser, tab: &Tab) -> String {
    browser.click(tab, "#my-address");
    browser.until(tab, "the address is shown", SOON, "document.querySelector('dialog .code').naturalWidth > 100");
    draw(browser, tab, "2-address");
    let address = browser.evaluate(tab, "document.querySelector('#own-address').textContent");
    browser.key(tab, "Escape");
    browser.until(tab, "the dialog is gone", SOON, "!document.querySelector('dialog')");
    assert_eq!(browser.evaluate(tab, "document.activeElement.id"), "my-address", "the focus is where it was");
    address.as_str().expect("an address").to_owned()
}

fn request_of_a_stranger(browser: &mut Browser, tab: &Tab, bob: &Person, address: &str) {
    eprintln!("a stranger's request");
    assert_eq!(bob.run(["add", "ann", address]).code, 0);
    bob.send("ann", "Hello Ann, this is Bob. We met at the reef.");
    browser.until(tab, "the request comes in", ARRIVAL, &says("Requests"));
    browser.click(tab, ".chat");
    browser.until(tab, "the message is there", SOON, &says("We met at the reef"));
    draw(browser, tab, "3-request");
    browser.click(tab, "#accept");
    browser.until(tab, "it is a request no more", SOON, "!document.querySelector('.request')");
    // now it gets a name
    browser.click(tab, "#rename");
    browser.until(tab, "the dialog is there", SOON, "document.querySelector('dialog input')");
    browser.write(tab, "bob");
    browser.key(tab, "Enter");
    browser.until(tab, "the name is taken", SOON, "document.querySelector('#chat-title').textContent === 'bob'");
}

fn write(browser: &mut Browser, tab: &Tab, text: &str) {
    browser.click(tab, "#text");
    browser.write(tab, text);
    browser.key(tab, "Enter");
}

/// Whether the last own message has come so far.
fn last_own(word: &str) -> String {
    format!("[...document.querySelectorAll('.own .state')].at(-1)?.textContent === '{word}'")
}

fn chat_both_ways(browser: &mut Browser, tab: &Tab, bob: &Person, page: &Page) {
    eprintln!("both ways");
    write(browser, tab, "Hello Bob 🐟 שלום");
    browser.until(tab, "it is delivered", ARRIVAL, &last_own("Delivered"));
    until("bob reads it", ARRIVAL, || bob.read().iter().any(|m| m["text"] == "Hello Bob 🐟 שלום").then_some(()));
    bob.send("ann", "The tide is high today.");
    browser.until(tab, "the answer comes without a reload", ARRIVAL, &says("The tide is high today."));
    // what is written elsewhere shows up here
    page.run(&["send", "bob", "From the command line, for once."]);
    browser.until(tab, "it is here too", SOON, &says("From the command line, for once."));
    browser.until(tab, "and delivered", ARRIVAL, &last_own("Delivered"));
    browser.until(tab, "an estimate is given", SOON, &says("(an estimate)"));
}

fn markup_stays_text(browser: &mut Browser, tab: &Tab, bob: &Person) {
    let text = "<img src=x onerror=\"window.hurt=1\"><script>window.hurt=1</script><b id=hurt>bold</b>";
    bob.send("ann", text);
    browser.until(tab, "it is shown as it is", ARRIVAL, &says(text));
    assert_eq!(browser.evaluate(tab, "window.hurt === undefined && !document.querySelector('#hurt')"), true);
}

fn pictures_both_ways(browser: &mut Browser, tab: &Tab, bob: &Person, folder: &Path) {
    eprintln!("pictures");
    let file = folder.join("reef at noon.png");
    png(browser, tab, &file);
    browser.choose(tab, "#file", &file);
    browser.until(tab, "it is looked at once more", SOON, "document.querySelector('dialog img')?.naturalWidth === 320");
    draw(browser, tab, "4-send-picture");
    browser.click(tab, "#send-file");
    browser.until(tab, "its progress is shown", SOON, "document.querySelector('.own progress')");
    draw(browser, tab, "5-progress");
    let got = until("bob has the picture", ARRIVAL, || {
        bob.read().into_iter().find(|message| message["file"]["name"] == "reef at noon.png")
    });
    let bytes = std::fs::read(got["file"]["path"].as_str().expect("a path")).expect("the file");
    assert!(bytes.starts_with(b"\x89PNG\r\n"));
    browser.until(tab, "it is delivered", ARRIVAL, &last_own("Delivered"));
    let ended = bob.run(["send-file".as_ref(), "ann".as_ref(), file.as_os_str()]);
    assert_eq!(ended.code, 0, "{ended:?}");
    browser.until(tab, "his picture is shown", ARRIVAL, "document.querySelector('.theirs img')?.naturalWidth === 320");
    // what only calls itself a picture is not one
    let fake = folder.join("fake.png");
    std::fs::write(&fake, "<svg xmlns='http://www.w3.org/2000/svg'><script>parent.hurt=1</script></svg>")
        .expect("written");
    assert_eq!(bob.run(["send-file".as_ref(), "ann".as_ref(), fake.as_os_str()]).code, 0);
    browser.until(tab, "it is not shown", ARRIVAL, &says("Not a picture that can be shown here"));
    let refused = browser.complaints();
    assert!(refused.iter().all(|line| line.contains("415") || starting(line)), "{refused:?}");
    draw(browser, tab, "6-conversation");
}

/// While the first start goes on, the page may ask a client that is not there yet: it is told to try again, and does.
fn starting(line: &str) -> bool {
    line.contains("409") && line.contains("/api/call/status")
}

fn a_contact_is_added_by_keyboard(browser: &mut Browser, tab: &Tab, net: &Testnet, folder: &Path) {
    eprintln!("a contact, by keyboard");
    let carol = Person::new("carol", folder, &net.ready.network);
    browser.evaluate(tab, "document.querySelector('#add-contact').focus()");
    browser.key(tab, "Enter");
    browser.until(tab, "the form is there", SOON, "document.activeElement.tagName === 'INPUT'");
    browser.write(tab, "Carol");
    browser.key(tab, "Tab");
    browser.write(tab, "shoal1nonsense");
    browser.key(tab, "Enter");
    browser.until(
        tab,
        "a wrong address is refused in words",
        SOON,
        "document.querySelector('dialog .error')?.textContent.length > 10",
    );
    browser.evaluate(tab, "document.querySelector('#field-address').select()");
    browser.write(tab, &carol.address);
    browser.key(tab, "Enter");
    browser.until(
        tab,
        "her conversation is open",
        SOON,
        "document.querySelector('#chat-title')?.textContent === 'Carol'",
    );
    assert_eq!(browser.evaluate(tab, "document.activeElement.id"), "text", "one can write at once");
    browser.write(tab, "Hello Carol");
    browser.key(tab, "Enter");
    browser.until(tab, "it waits or goes", SOON, "document.querySelector('.own .state')");
    until("carol reads it", ARRIVAL, || carol.read().iter().any(|m| m["text"] == "Hello Carol").then_some(()));
    // she has not accepted: nothing tells whether she reads; the key changed under the page, which stays where it is
    browser.until(tab, "it is stored", ARRIVAL, &last_own("Stored"));
    browser.key(tab, "Escape");
    browser.until(tab, "the list has both", SOON, "document.querySelectorAll('.chat').length === 2");
    draw(browser, tab, "7-list");
}

/// Presses the conversation of that name in the list.
fn open(browser: &mut Browser, tab: &Tab, name: &str) {
    let named = format!(
        "[...document.querySelectorAll('.chat')].find((chat) => chat.querySelector('.chat-name').textContent === '{name}')"
    );
    browser.until(tab, &format!("{name} is in the list"), SOON, &named);
    browser.evaluate(tab, &format!("{named}.click()"));
}

fn verified_by_number(browser: &mut Browser, tab: &Tab, bob: &Person) {
    eprintln!("a safety number");
    open(browser, tab, "bob");
    browser.click(tab, "#verify");
    browser.until(tab, "the number is shown", SOON, "document.querySelector('#digits')?.textContent.length > 60");
    let digits = browser.evaluate(tab, "document.querySelector('#digits').textContent");
    let theirs = bob.run(["verify", "ann"]);
    assert_eq!(theirs.lines[0]["digits"], digits, "the same on both sides");
    draw(browser, tab, "11-verify");
    browser.click(tab, "#same");
    browser.until(tab, "the head says so", SOON, "document.querySelector('.titles').innerText.includes('verified')");
}

fn a_group(browser: &mut Browser, tab: &Tab, bob: &Person) {
    eprintln!("a group");
    browser.click(tab, "#new-group");
    browser.until(tab, "the form is there", SOON, "document.activeElement.tagName === 'INPUT'");
    browser.write(tab, "Reef friends");
    browser.key(tab, "Enter");
    browser.until(tab, "it is open", SOON, "document.querySelector('#chat-title')?.textContent === 'Reef friends'");
    browser.click(tab, "#add-member");
    browser.until(tab, "the form is there", SOON, "document.activeElement.tagName === 'INPUT'");
    browser.write(tab, "bob");
    browser.key(tab, "Enter");
    let added = "(() => { const said = document.querySelector('.titles').innerText; \
                 return said.includes('bob') && !said.includes('being added'); })()";
    browser.until(tab, "bob is added", ARRIVAL, added);
    write(browser, tab, "Hello all");
    let got = until("bob reads it", ARRIVAL, || bob.read().into_iter().find(|message| message["text"] == "Hello all"));
    let group = got["conversation"].as_str().expect("a conversation").to_owned();
    assert_eq!(bob.run(["accept", &group]).code, 0);
    bob.send(&group, "Hello from Bob");
    browser.until(tab, "his answer is there, with his name", ARRIVAL, &says("Hello from Bob"));
    let named = "[...document.querySelectorAll('.theirs .from')].at(-1).textContent.startsWith('bob')";
    browser.until(tab, "it says who wrote", SOON, named);
    draw(browser, tab, "12-group");
}

/// Both take other addresses; each other follows, and what was said meanwhile is there until it was seen.
fn other_addresses(browser: &mut Browser, tab: &Tab, bob: &Person, before: &str) {
    eprintln!("other addresses");
    browser.click(tab, "#my-address");
    browser.until(tab, "the address is shown", SOON, "document.querySelector('#own-address')");
    browser.click(tab, "#new-address");
    browser.until(tab, "it is asked about", SOON, &says("It cannot be taken back"));
    draw(browser, tab, "13-new-address");
    browser.click(tab, "#take-address");
    let other = format!("(document.querySelector('#own-address')?.textContent ?? '{before}') !== '{before}'");
    browser.until(tab, "the new one is shown", SOON, &other);
    let address = browser.evaluate(tab, "document.querySelector('#own-address').textContent");
    browser.key(tab, "Escape");
    browser.until(tab, "the dialog is gone", SOON, "!document.querySelector('dialog')");
    until("bob has it", ARRIVAL, || {
        bob.run(["contacts"]).lines.iter().any(|one| one["address"] == address).then_some(())
    });
    let told = bob.run(["status", "--seen"]).lines[0]["notices"].clone();
    assert!(told.as_array().is_some_and(|told| told.iter().any(|one| one["code"] == "new_address")), "{told}");
    assert_eq!(bob.run(["status"]).lines[0]["notices"], serde_json::json!([]), "seen");

    assert_eq!(bob.run(["address", "--new"]).code, 0);
    browser.until(tab, "the bar has a notice", ARRIVAL, "document.querySelector('#told')");
    browser.click(tab, "#told");
    browser.until(tab, "it is said", SOON, &says("bob has another address now"));
    draw(browser, tab, "14-notices");
    browser.key(tab, "Enter");
    browser.until(tab, "it is seen", SOON, "!document.querySelector('dialog') && !document.querySelector('#told')");
}

/// A layer is gone: packets go out and none comes back.
fn a_warning_comes_before_what_is_sent(browser: &mut Browser, tab: &Tab, net: &mut Testnet, bob: &Person) {
    eprintln!("a warning");
    open(browser, tab, "bob");
    let mixes = net.nodes("mix", Some("L2"));
    for mix in &mixes {
        net.kill(mix.pid);
    }
    browser.until(tab, "the bar warns", ARRIVAL, "document.querySelector('#condition.warn, #condition.pause')");
    browser.until(tab, "and so does the place where one writes", SOON, "!document.querySelector('.caution').hidden");
    write(browser, tab, "Not now.");
    browser.until(tab, "it is asked about", SOON, "document.querySelector('dialog')?.innerText.includes('Send now?')");
    draw(browser, tab, "8-warning");
    // the focus is on the careful answer
    browser.key(tab, "Enter");
    browser.until(tab, "the dialog is gone", SOON, "!document.querySelector('dialog')");
    assert_eq!(browser.evaluate(tab, "document.querySelector('#text').value"), "Not now.", "it is kept");
    assert_eq!(
        browser.evaluate(tab, "[...document.querySelectorAll('.own')].at(-1).innerText.includes('Not now')"),
        false
    );
    for mix in &mixes {
        net.run_again(&mix.dir, "shoal-node");
    }
    browser.until(tab, "it is over", 2 * ARRIVAL, "document.querySelector('#condition.good')");
    browser.until(tab, "the caution is gone", SOON, "document.querySelector('.caution').hidden");
    browser.key(tab, "Enter");
    browser.until(tab, "now it goes without a question", ARRIVAL, &last_own("Delivered"));
    until("bob reads it", ARRIVAL, || bob.read().iter().any(|m| m["text"] == "Not now.").then_some(()));
}

fn offline_and_back(browser: &mut Browser, tab: &Tab, net: &mut Testnet, bob: &Person) {
    eprintln!("offline and back");
    let gateways = net.nodes("gateway", None);
    for gateway in &gateways {
        net.kill(gateway.pid);
    }
    browser.until(tab, "the bar says offline", ARRIVAL, "document.querySelector('#condition.offline')");
    write(browser, tab, "Written while nothing goes.");
    browser.until(tab, "it waits", SOON, &last_own("Queued"));
    draw(browser, tab, "9-offline");
    for gateway in &gateways {
        net.run_again(&gateway.dir, "shoal-node");
    }
    browser.until(tab, "it is back", ARRIVAL, "!document.querySelector('#condition.offline')");
    browser.until(tab, "and what waited is delivered", ARRIVAL, &last_own("Delivered"));
    until("bob reads it", ARRIVAL, || {
        bob.read().iter().any(|m| m["text"] == "Written while nothing goes.").then_some(())
    });
}

fn the_session_ends(browser: &mut Browser, tab: &Tab, page: &Page) {
    eprintln!("the session ends");
    // it outlives a reload, and nothing else opens the page
    let url = browser.evaluate(tab, "location.href").as_str().expect("an address").to_owned();
    browser.go(tab, &url);
    browser.until(tab, "it is there after a reload", SOON, "document.querySelector('#my-address')");
    let other = browser.open(&url, (800, 600));
    browser.until(&other, "another tab has no session", SOON, &says("opened by a link"));
    draw(browser, &other, "10-outside");
    browser.click(tab, ".leave");
    browser.until(tab, "the page is shut", SOON, &says("The session is over"));
    browser.go(&other, &page.link());
    browser.until(&other, "a fresh link opens it", SOON, "document.querySelector('#my-address')");
}

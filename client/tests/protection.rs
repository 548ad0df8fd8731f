//! The command `shoal` as a process, without a network: passphrases, moving to another machine, safety numbers.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use shoal_protocol::UnixMillis;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::network::{Founding, Hint, Hints, NetworkFile};
use shoal_protocol::parameters::Parameters;
use tempfile::TempDir;

/// A network that nobody runs.
fn nowhere() -> NetworkFile {
    let authority = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
    // the discard port: nobody answers there
    let gateway = Hint { identity: authority.public().identity, address: "127.0.0.1:9".parse().unwrap() };
    NetworkFile {
        founding: Founding::default(),
        name: "nowhere".to_owned(),
        genesis_time: UnixMillis(1_750_000_000_000),
        authorities: vec![authority.public().clone()],
        parameters: Parameters::test_network(),
        hints: Hints { authorities: Vec::new(), gateways: vec![gateway] },
    }
}

/// A machine with one user, whose profile is where a profile is if nobody says otherwise.
struct Machine {
    folder: TempDir,
    /// The session bus, if there is one.
    bus: Option<String>,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap(), bus: None };
        for folder in ["data", "run"] {
            std::fs::create_dir(machine.at(folder)).unwrap();
        }
        machine.file("network.toml", &nowhere().to_toml());
        machine
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn profile(&self) -> PathBuf {
        self.at("data/shoal")
    }

    fn file(&self, name: &str, content: &str) -> String {
        std::fs::write(self.at(name), content).unwrap();
        self.at(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_shoal")));
        command.arg("--json").args(arguments).stdin(Stdio::null());
        command.env("HOME", self.folder.path()).env("XDG_DATA_HOME", self.at("data"));
        command.env("XDG_RUNTIME_DIR", self.at("run")).env_remove("DBUS_SESSION_BUS_ADDRESS");
        command.env_remove("SHOAL_PASSPHRASE_FILE");
        if let Some(bus) = &self.bus {
            command.env("DBUS_SESSION_BUS_ADDRESS", bus);
        }
        command
    }

    fn prints(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{arguments:?}: {text}"))
    }

    /// The exit code, and the code of the failure; it always says what to do.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        let failure: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(failure["error"]["next"].as_str().is_some_and(|next| !next.is_empty()), "{failure}");
        (output.status.code().unwrap(), failure["error"]["code"].as_str().unwrap().to_owned())
    }

    fn init(&self, more: &[&str]) -> Value {
        let network = self.at("network.toml");
        self.prints(&[&["init", "--network", network.to_str().unwrap()], more].concat())
    }

    fn down(&self) {
        self.prints(&["down"]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
    }
}

/// A session bus with an unlocked keyring; both end with it.
struct Session(Child);

impl Session {
    /// `None`: this machine has no keyring to try.
    fn start(machine: &mut Machine) -> Option<Self> {
        let script = "printf secret | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1 || exit 1; \
                      printf '%s\\n' \"$DBUS_SESSION_BUS_ADDRESS\"; cat";
        let mut child = Command::new("dbus-run-session")
            .args(["--", "sh", "-c", script])
            .env("HOME", machine.folder.path())
            .env("XDG_DATA_HOME", machine.at("keyrings"))
            .env("XDG_RUNTIME_DIR", machine.at("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
        machine.bus = Some(line.trim().to_owned()).filter(|bus| !bus.is_empty());
        machine.bus.is_some().then_some(Self(child))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // the end of its input is the end of the session
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn denied(code: &str) -> (i32, String) {
    (77, code.to_owned())
}

#[test]
fn a_profile_with_a_passphrase_opens_with_it_and_programs_are_never_asked() {
    let machine = Machine::new();
    // nobody else on this machine has it among the arguments of a process
    let secret = format!("correct horse {}", std::process::id());
    let (right, wrong) = (machine.file("right", &format!("{secret}\n")), machine.file("wrong", "battery staple\n"));
    let network = machine.at("network.toml");
    let network = network.to_str().unwrap();
    // nobody can be asked here
    assert_eq!(machine.fails(&["init", "--network", network, "--passphrase"]), denied("passphrase_needed"));
    assert!(!machine.profile().exists(), "nothing is left behind");
    let made = machine.init(&["--passphrase", "--passphrase-file", &right]);
    assert_eq!(made["protection"], "passphrase");

    assert_eq!(machine.fails(&["address"]), denied("passphrase_needed"));
    assert_eq!(machine.fails(&["up"]), denied("passphrase_needed"));
    assert_eq!(machine.fails(&["address", "--passphrase-file", &wrong]), denied("wrong_passphrase"));
    assert_eq!(machine.fails(&["up", "--passphrase-file", &wrong]), denied("wrong_passphrase"));
    assert_eq!(machine.fails(&["address", "--passphrase-file", "/nowhere"]), (74, "passphrase_file".to_owned()));
    let empty = machine.file("empty", "\n");
    assert_eq!(machine.fails(&["address", "--passphrase-file", &empty]), (78, "bad_passphrase_file".to_owned()));

    assert_eq!(machine.prints(&["--passphrase-file", &right, "address"])["address"], made["address"]);
    // while the daemon runs, nobody needs it again
    assert_eq!(machine.prints(&["address"])["address"], made["address"]);
    for process in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        for place in ["cmdline", "environ"] {
            let seen = std::fs::read(process.path().join(place)).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&seen).contains(&secret), "{:?}", process.path().join(place));
        }
    }
    machine.down();
    let by_variable = machine.command(&["address"]).env("SHOAL_PASSPHRASE_FILE", &right).output().unwrap();
    assert!(by_variable.status.success());
}

#[test]
fn the_passphrase_changes_under_a_running_daemon_and_can_be_removed() {
    let machine = Machine::new();
    let (first, second) = (machine.file("first", "one horse"), machine.file("second", "two horses"));
    let address = machine.init(&[])["address"].clone();
    assert_eq!(machine.prints(&["address"])["address"], address);
    let key = std::fs::read(machine.profile().join("profile.key")).unwrap();

    assert_eq!(machine.fails(&["passphrase", "set"]), denied("passphrase_needed"));
    let set = machine.prints(&["passphrase", "set", "--new-passphrase-file", &first]);
    assert_eq!(set, json!({ "protection": "passphrase", "restarted": true }));
    assert_ne!(std::fs::read(machine.profile().join("profile.key")).unwrap(), key);
    assert_eq!(machine.prints(&["address"])["address"], address, "the daemon runs again");
    machine.down();
    assert_eq!(machine.fails(&["address"]), denied("passphrase_needed"));

    let change = ["passphrase", "set", "--new-passphrase-file", &second, "--passphrase-file"];
    assert_eq!(machine.fails(&[&change[..], &[&second]].concat()), denied("wrong_passphrase"));
    let set = machine.prints(&[&change[..], &[&first]].concat());
    assert_eq!(set["restarted"], false);
    assert_eq!(machine.fails(&["address", "--passphrase-file", &first]), denied("wrong_passphrase"));
    assert_eq!(machine.fails(&["passphrase", "remove"]), denied("passphrase_needed"));
    assert_eq!(machine.prints(&["passphrase", "remove", "--passphrase-file", &second])["protection"], "file");
    assert_eq!(machine.prints(&["address"])["address"], address);
}

#[test]
fn without_a_keyring_it_says_so_and_makes_nothing() {
    let machine = Machine::new();
    let network = machine.at("network.toml");
    let none = (69, "no_keyring".to_owned());
    assert_eq!(machine.fails(&["init", "--keyring", "--network", network.to_str().unwrap()]), none);
    assert!(!machine.profile().exists());
    let address = machine.init(&[])["address"].clone();
    assert_eq!(machine.fails(&["passphrase", "set", "--keyring"]), none);
    assert_eq!(machine.prints(&["address"])["address"], address);
}

#[test]
fn a_keyring_keeps_the_key_and_hands_it_to_nobody_without_its_session() {
    let mut machine = Machine::new();
    let Some(session) = Session::start(&mut machine) else {
        eprintln!("skipped: dbus-run-session and gnome-keyring-daemon are needed");
        return;
    };
    let made = machine.init(&["--keyring"]);
    assert_eq!(made["protection"], "keyring");
    assert_eq!(machine.prints(&["address"])["address"], made["address"]);
    // another profile of the same person has an entry of its own
    let other = machine.at("other");
    let other = ["--profile", other.to_str().unwrap()];
    let network = machine.at("network.toml");
    let two = machine.prints(&[&other[..], &["init", "--keyring", "--network", network.to_str().unwrap()]].concat());
    let set = machine.prints(&[&other[..], &["passphrase", "remove"]].concat());
    assert_eq!(set["protection"], "file");
    assert_eq!(machine.prints(&[&other[..], &["address"]].concat())["address"], two["address"]);
    machine.prints(&[&other[..], &["down"]].concat());
    // from keyring to passphrase and back, under the running daemon
    let first = machine.file("first", "one horse");
    let set = machine.prints(&["passphrase", "set", "--new-passphrase-file", &first]);
    assert_eq!(set, json!({ "protection": "passphrase", "restarted": true }));
    let set = machine.prints(&["passphrase", "set", "--keyring", "--passphrase-file", &first]);
    assert_eq!(set, json!({ "protection": "keyring", "restarted": true }));
    machine.down();
    // moved with its key; on a machine without a keyring only if that is said
    let (file, new) = (machine.at("me.shoal"), Machine::new());
    let file = file.to_str().unwrap();
    machine.prints(&["export", file, "--passphrase-file", &first]);
    assert_eq!(new.fails(&["import", file, "--passphrase-file", &first]), (69, "no_keyring".to_owned()));
    assert!(!new.profile().exists());
    new.prints(&["import", file, "--passphrase-file", &first, "--without-keyring"]);
    assert_eq!(new.prints(&["address"])["address"], made["address"]);
    // a folder without its session
    let third = machine.at("third");
    let third = ["--profile", third.to_str().unwrap()];
    machine.prints(&[&third[..], &["init", "--keyring", "--network", network.to_str().unwrap()]].concat());
    drop(session);
    assert_eq!(machine.fails(&[&third[..], &["address"]].concat()), (69, "no_keyring".to_owned()));
}

#[test]
fn a_profile_moves_to_another_machine_and_stays_behind_unusable() {
    let (old, new) = (Machine::new(), Machine::new());
    let (right, wrong) = (old.file("right", "correct horse"), old.file("wrong", "battery"));
    let address = old.init(&[])["address"].clone();
    let friend = Machine::new();
    let bob = friend.init(&[])["address"].as_str().unwrap().to_owned();
    old.prints(&["add", "bob", &bob]);
    let sent = old.prints(&["send", "bob", "hello"]);
    let file = old.at("me.shoal");
    let file = file.to_str().unwrap();

    assert_eq!(old.fails(&["export", file]), denied("passphrase_needed"));
    assert_eq!(old.fails(&["export", "/no/such/folder/me.shoal"]), (74, "file".to_owned()), "before it asks");
    assert_eq!(old.fails(&["export", &right, "--passphrase-file", &right]), (64, "file_exists".to_owned()));
    assert_eq!(old.prints(&["address"])["address"], address, "what is refused changes nothing");
    let exported = old.prints(&["export", file, "--passphrase-file", &right]);
    assert_eq!((&exported["file"], &exported["moved"]), (&json!(file), &json!(true)));
    assert!(!String::from_utf8_lossy(&std::fs::read(file).unwrap()).contains("nowhere"));
    // whatever is tried, it is not used here any more
    for arguments in [&["up"][..], &["send", "bob", "again"], &["read"], &["passphrase", "remove"], &["export", "x"]] {
        assert_eq!(old.fails(arguments), (78, "profile_moved".to_owned()), "{arguments:?}");
    }
    assert_eq!(old.fails(&["init", "--network", &old.file("n", &nowhere().to_toml())]).1, "profile_exists");

    assert_eq!(new.fails(&["import", file]), denied("passphrase_needed"));
    assert_eq!(new.fails(&["import", file, "--passphrase-file", &wrong]), denied("wrong_passphrase"));
    assert_eq!(new.fails(&["import", &right, "--passphrase-file", &right]).1, "not_exported");
    assert!(!new.profile().exists());
    let imported = new.prints(&["import", file, "--passphrase-file", &right]);
    assert_eq!((&imported["protection"], &imported["used_up"]), (&json!("file"), &json!(true)));
    assert_eq!(new.prints(&["address"])["address"], address);
    assert_eq!(new.prints(&["contacts"])["name"], "bob");
    assert_eq!(new.prints(&["status"])["queue"], 1);
    assert_eq!(sent["state"], "queued");
    // once only
    assert_eq!(new.fails(&["import", file, "--passphrase-file", &right]), (78, "profile_exists".to_owned()));
    assert_eq!(
        friend.fails(&["--profile", friend.at("x").to_str().unwrap(), "import", file, "--passphrase-file", &right]).1,
        "export_used_up"
    );
}

#[test]
fn safety_numbers_are_the_same_on_both_sides_and_mismatch_is_loud() {
    let (ann, bob, eve) = (Machine::new(), Machine::new(), Machine::new());
    let [of_ann, of_bob, of_eve] = [&ann, &bob, &eve].map(|one| one.init(&[])["address"].as_str().unwrap().to_owned());
    ann.prints(&["add", "bob", &of_bob]);
    let mine = ann.prints(&["verify", "bob"]);
    let theirs = bob.prints(&["verify", &of_ann]);
    for form in ["digits", "words", "code"] {
        assert_eq!(mine[form], theirs[form]);
        let said = theirs[form].as_str().unwrap();
        let compared = ann.prints(&["verify", "bob", "--code", said]);
        assert_eq!((&compared["match"], &compared["verified"]), (&json!(true), &json!(false)));
        let other = eve.prints(&["verify", &of_ann])[form].as_str().unwrap().to_owned();
        assert_eq!(ann.fails(&["verify", "bob", "--confirm", "--code", &other]), denied("safety_number_differs"));
    }
    assert_eq!(ann.fails(&["verify", "bob", "--code", "1234"]), (64, "bad_safety_number".to_owned()));
    assert_eq!(ann.fails(&["verify", &of_eve, "--confirm"]).0, 64);
    assert_eq!(ann.prints(&["contacts"])["verified"], false);
    assert_eq!(ann.prints(&["verify", "bob", "--confirm"])["verified"], true);
    assert_eq!(ann.prints(&["contacts"])["verified"], true);
    let drawn = ann.prints(&["address", "--qr"]);
    assert_eq!(drawn["qr"], json!(of_ann.to_uppercase()));
}

#[test]
fn two_profiles_of_one_person_share_nothing() {
    let machine = Machine::new();
    let passphrase = machine.file("right", "correct horse");
    let other = machine.at("other");
    let profile = ["--profile", other.to_str().unwrap()];
    let network = machine.at("network.toml");
    let one = machine.init(&[]);
    let init = ["init", "--network", network.to_str().unwrap(), "--passphrase-file", &passphrase];
    let two = machine.prints(&[&profile[..], &init].concat());
    assert_ne!(one["address"], two["address"]);
    // both run at a time, and one stops without the other
    assert_eq!(machine.prints(&["address"])["address"], one["address"]);
    let open = ["address", "--passphrase-file", &passphrase];
    assert_eq!(machine.prints(&[&profile[..], &open].concat())["address"], two["address"]);
    machine.prints(&["add", "me", two["address"].as_str().unwrap()]);
    let none = machine.command(&[&profile[..], &["contacts"]].concat()).output().unwrap();
    assert!(none.status.success() && none.stdout.is_empty());
    machine.down();
    assert_eq!(machine.prints(&[&profile[..], &["address"]].concat())["address"], two["address"]);
    // everything that either has is in its own folder, and nothing has the name of the other
    let names = |folder: &Path| {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(machine.folder.path()), ["data", "network.toml", "other", "right", "run"]);
    assert_eq!(names(&machine.at("data")), ["shoal"]);
    for (folder, foreign) in [(machine.profile(), &two["address"]), (other.clone(), &one["address"])] {
        for name in names(&folder) {
            let content = std::fs::read(folder.join(name)).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&content).contains(foreign.as_str().unwrap()));
        }
    }
    machine.prints(&[&profile[..], &["down"]].concat());
    assert_eq!(names(&machine.at("run")), Vec::<String>::new(), "no copies are left in memory");
}

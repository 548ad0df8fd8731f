//! `shoal chat` in a real terminal: tmux holds the terminal, keys go in, what a person would see comes out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use shoal_tests::person::Person;
use shoal_tests::testnet::Testnet;
use shoal_tests::{binary, until, until_every};

const SOON: Duration = Duration::from_secs(20);
/// For what goes through the network and back.
const LATER: Duration = Duration::from_secs(120);

/// A terminal of its own, on a tmux server of its own.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Runs `shoal chat` in it, under a shell that says how it ended.
    fn chat(folder: &Path, person: &Person, columns: u16, rows: u16) -> Self {
        let terminal = Self { socket: folder.join(format!("{}.tmux", person.name)) };
        let line = format!(
            "'{}' --profile '{}' chat; echo \"ended with $?\"; stty -a | grep -o ' [-]*icanon'; exec cat",
            binary("shoal").display(),
            person.profile.display()
        );
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["-f", "/dev/null", "-u", "new-session", "-d", "-x", &columns, "-y", &rows, &line]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(arguments)
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("tmux runs: ops/test installs it (Debian package tmux)");
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"][..], keys].concat());
    }

    fn write(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until all of it is on the screen.
    fn sees(&self, parts: &[&str], deadline: Duration) -> String {
        let mut last = String::new();
        until_every(Duration::from_millis(100), &format!("{parts:?} on the screen"), deadline, || {
            let screen = self.screen();
            if screen != last {
                eprintln!("{screen}");
                last.clone_from(&screen);
            }
            parts.iter().all(|part| screen.contains(part)).then_some(screen)
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").stderr(Stdio::null()).status();
    }
}

#[test]
fn two_people_write_to_each_other_in_terminals() {
    let net = Testnet::start(&["--epoch", "20s"]);
    let folder = tempfile::tempdir().expect("folder");
    let network = Path::new(&net.ready.network);
    let mut ann = Person::new("ann", folder.path(), network);
    let bob = Person::new("bob", folder.path(), network);
    let at_ann = Terminal::chat(folder.path(), &ann, 80, 24);
    let at_bob = Terminal::chat(folder.path(), &bob, 120, 40);

    at_ann.sees(&["Nobody here yet", "CONNECTED", "queue 0"], LATER);
    at_ann.keys(&["a"]);
    at_ann.sees(&["Add a contact", "Address"], SOON);
    at_ann.write("bob");
    at_ann.keys(&["Tab"]);
    at_ann.write(&bob.address);
    at_ann.keys(&["Enter"]);
    at_ann.sees(&["bob is in the list", "no message yet"], SOON);
    at_ann.keys(&["Enter"]);
    at_ann.sees(&["Write"], SOON);
    at_ann.write("ahoy 🐟");
    at_ann.keys(&["M-Enter"]);
    at_ann.write("second line");
    at_ann.keys(&["Enter"]);
    at_ann.sees(&["you", "  ahoy 🐟", "  second line"], SOON);

    // a stranger is a request until accepted, and then has a name
    at_bob.sees(&["REQUEST", "ahoy 🐟"], LATER);
    at_bob.keys(&["y"]);
    at_bob.sees(&["y  accept"], SOON);
    at_bob.keys(&["y"]);
    at_bob.sees(&["Add a contact"], SOON);
    at_bob.write("ann");
    at_bob.keys(&["Tab", "Enter"]);
    at_bob.sees(&["ann is in the list"], SOON);
    at_bob.keys(&["Enter"]);
    at_bob.write("hello ann");
    at_bob.keys(&["Enter"]);
    at_ann.sees(&["hello ann", "✓✓ delivered"], LATER);
    at_bob.sees(&["✓✓ delivered"], LATER);

    // a file, with the path typed
    let file = folder.path().join("fish.txt");
    std::fs::write(&file, "blub ".repeat(2_000)).expect("file");
    at_ann.keys(&["F5"]);
    at_ann.write(&file.display().to_string());
    at_ann.keys(&["Enter"]);
    at_ann.sees(&["[file fish.txt, 10.0 kB]"], SOON);
    at_bob.sees(&["[file fish.txt, 10.0 kB]", "is here:"], LATER);

    // an invite, with its code
    at_ann.keys(&["F10"]);
    at_ann.sees(&["Invite somebody"], SOON);
    at_ann.write("zoe");
    at_ann.keys(&["Enter"]);
    at_ann.sees(&["shoal-invite1"], SOON);
    at_ann.keys(&["Escape"]);
    at_ann.sees(&["hello ann"], SOON);

    // other sizes, and back
    at_ann.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    at_ann.sees(&["CONNECTED", "ep ", "gw "], SOON);
    at_ann.tmux(&["resize-window", "-x", "39", "-y", "10"]);
    at_ann.sees(&["Too small: 39 x 10"], SOON);
    at_ann.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    at_ann.sees(&["hello ann", "epoch "], SOON);

    // the daemon is killed: said in words, and no message is lost; it is back: so is everything
    ann.kill();
    at_ann.sees(&["NOT RUNNING", "Ctrl+R"], SOON);
    at_ann.write("kept");
    at_ann.keys(&["Enter"]);
    at_ann.sees(&["the text stays here"], SOON);
    at_ann.keys(&["C-r"]);
    at_ann.sees(&["CONNECTED", "hello ann"], LATER);
    at_ann.keys(&["Enter"]);
    at_bob.sees(&["  kept"], LATER);

    // leaving gives the terminal back: canonical mode, and the screen from before
    at_ann.keys(&["C-q"]);
    let left = at_ann.sees(&["ended with 0", " icanon"], SOON);
    assert!(!left.contains("-icanon") && !left.contains("hello ann"), "{left}");
    // so does a signal
    let pid = pid_of(&bob.profile);
    assert!(Command::new("kill").arg(pid).status().expect("kill runs").success());
    let left = at_bob.sees(&["ended with 0", " icanon"], SOON);
    assert!(!left.contains("-icanon") && !left.contains("hello ann"), "{left}");
    assert_eq!(ann.run(["down"]).code, 0);
}

/// The process of `shoal --profile … chat`.
fn pid_of(profile: &Path) -> String {
    until("the process of the screen", SOON, || {
        let processes =
            std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        processes.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.get(2) == Some(&profile.as_os_str().as_encoded_bytes()) && words.get(3) == Some(&b"chat".as_slice())
        })
    })
}

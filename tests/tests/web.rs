//! The status page in a real browser.

use shoal_tests::testnet::Testnet;
use shoal_tests::until;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Chromium without the services that look for hosts outside.
fn chromium(arguments: &[&str]) -> std::process::Output {
    let data = tempfile::tempdir().expect("folder");
    Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", data.path().display()))
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .expect("chromium runs: ops/test installs it (Debian package chromium)")
}

#[test]
fn the_status_page_draws_the_network() {
    let net = Testnet::start(&["--epoch", "20s"]);
    let url = net.ready.status.clone();
    let page = until("loops have come back and are on the page", Duration::from_secs(200), || {
        let output = chromium(&["--dump-dom", "--virtual-time-budget=2000", &url]);
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        page.contains("<svg").then_some(page)
    });
    for node in &net.ready.nodes {
        let identity = node.identity.as_deref().expect("identity");
        let start: String = identity.chars().take(8).collect();
        assert!(page.contains(&start), "the page shows node {start}");
    }
    for word in ["Epoch", "Loops", "Layer 1", "Layer 2", "Layer 3"] {
        assert!(page.to_lowercase().contains(&word.to_lowercase()), "the page says {word}");
    }
    for outside in ["http://", "https://"] {
        let foreign = page
            .split(outside)
            .skip(1)
            .filter(|rest| !rest.starts_with("www.w3.org/") && !rest.starts_with("127.0.0.1"))
            .count();
        assert_eq!(foreign, 0, "no resource from elsewhere");
    }
    let picture = std::env::temp_dir().join("shoal-status.png");
    let target = format!("--screenshot={}", picture.display());
    chromium(&[&target, "--window-size=1280,1600", &url]);
    let size = std::fs::metadata(&picture).expect("a screenshot").len();
    assert!(size > 20_000, "{size} bytes of picture");
    eprintln!("screenshot: {}", picture.display());
}

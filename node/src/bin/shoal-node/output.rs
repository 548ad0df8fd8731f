//! What is printed: JSON for programs, text for people, failures for both.

use serde_json::{Value, json};
use shoal_node::config_versions::{CONFIG_VERSION, Upgraded};
use shoal_node::failure::{Failure, Kind};
use shoal_node::io::doctor::Finding;
use shoal_node::io::doctor_machine;
use shoal_node::io::setup::{Setup, admission_line, start_command};
use std::io::Write as _;
use std::process::ExitCode;

/// Writes a line to standard output. A reader that went away is not our failure.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Help and version are no failures; everything else is wrong use.
pub(crate) fn misunderstood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args().any(|argument| argument == "--json") {
        let text = error.to_string();
        // up to the first empty line: what is wrong, and the names of the arguments it is about
        let said: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let message = said.join(" ");
        let message = message.trim_start_matches("error: ");
        fail(&Failure::new(Kind::Usage, message, "see `shoal-node --help`"), true);
    } else {
        let _ = error.print();
    }
    ExitCode::from(Kind::Usage.exit_code())
}

/// What went wrong, and what to do next.
pub(crate) fn fail(failure: &Failure, json: bool) {
    if json {
        say(&failure.to_json().to_string());
    } else {
        // nothing can be done about a standard error that is closed
        let _ = writeln!(std::io::stderr(), "shoal-node: {}\n  next: {}", failure.message, failure.next);
    }
}

/// A node's admission line and whom to send it to. `verb`: what was done with its directory; `then`: what to do next, before
/// the command that runs the node.
pub(crate) fn admission(setup: &Setup, json: bool, verb: &str, then: &str) {
    let Setup { dir, config, network, identity, upgrade } = setup;
    let identity = identity.identity();
    let line = admission_line(config.role, &identity, &config.address, config.family.as_deref());
    let hints = &network.hints.authorities;
    let small = doctor_machine::replay_set(setup).filter(|finding| !finding.ok);
    if json {
        let send_to: Vec<Value> = hints
            .iter()
            .map(|hint| json!({"identity": hint.identity.to_string(), "address": hint.address.to_string()}))
            .collect();
        let answer = json!({
            "identity": identity.to_string(),
            "role": config.role.to_string(),
            "dir": dir.display().to_string(),
            "network": {"name": network.name, "genesis": network.genesis_hash().to_string(), "words": network.fingerprint_words()},
            "admission": line,
            "send_to": send_to,
            "config": {
                "version": upgrade.as_ref().map_or(CONFIG_VERSION, |upgrade| upgrade.from),
                "upgrade": upgrade.as_ref().map(|upgrade| json!({"to": CONFIG_VERSION, "changes": upgrade.changes})),
                "warnings": small.into_iter().collect::<Vec<_>>(),
            },
        });
        say(&answer.to_string());
        return;
    }
    say(&format!("{verb}: a {} of network `{}` in {}", config.role, network.name, dir.display()));
    say(&format!("network fingerprint: {}", network.fingerprint_words()));
    say(&format!("\nadmission line:\n{line}\n"));
    say("Send it to the operators of these authorities, unless they have it; each runs `shoal-directory admit LINE`:");
    for hint in hints {
        say(&format!("  {} at {}", hint.identity, hint.address));
    }
    say(&format!("\n{then}{}", start_command(dir)));
    if let Some(Finding { found, next, .. }) = small {
        say(&format!("\nlimits in node.toml do not fit together: {found}\n  next: {next}"));
    }
    if let Some(upgrade) = upgrade {
        say(&upgrade_note(upgrade));
    }
}

/// What `run` will do with a file of an older version.
fn upgrade_note(upgrade: &Upgraded) -> String {
    let Upgraded { from, changes, .. } = upgrade;
    let changes = if changes.is_empty() { "only the version changes".to_owned() } else { changes.join("; ") };
    format!(
        "\nnode.toml is of version {from}: `run` writes it anew as version {CONFIG_VERSION} ({changes}), and keeps the old \
         one as node.toml.v{from}"
    )
}

/// What `doctor` found.
pub(crate) fn findings(findings: &[Finding], json: bool) {
    if json {
        say(&json!({"ok": findings.iter().all(|finding| finding.ok), "findings": findings}).to_string());
        return;
    }
    for finding in findings {
        let mark = match (finding.ok, finding.next.is_empty()) {
            (true, true) => "ok  ",
            (true, false) => "LOOK",
            (false, _) => "BAD ",
        };
        say(&format!("{mark} {}: {}", finding.check, finding.found));
        if !finding.next.is_empty() {
            say(&format!("     next: {}", finding.next));
        }
    }
}

/// The fields of an object for people, one a line.
pub(crate) fn fields(answer: &Value) {
    for (key, field) in answer.as_object().into_iter().flatten() {
        let text = field.as_str().map_or_else(|| field.to_string(), str::to_owned);
        say(&format!("{}: {text}", key.replace('_', " ")));
    }
}

//! Prepares a test network: its directory, and the keys and configuration of every party.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use shoal_protocol::{
    network::{Hint, NetworkFile},
    types::Identity,
};
use tokio::task::JoinSet;

use super::{network, parties, stale};
use crate::{
    failure::{ExitKind, Failure},
    plan::{Party, PartyRole, Shape},
    ready::{Note, Ready},
};

/// Makes the directory ready: absolute, ours, empty of an earlier test network.
pub(crate) async fn directory(dir: &Path) -> anyhow::Result<(PathBuf, File)> {
    let shown = dir.display();
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make the directory {shown}"))?;
    let dir = dir.canonicalize().with_context(|| format!("cannot find the directory {shown}"))?;
    let note_path = dir.join(Note::FILE);
    let held = match fs::read_to_string(&note_path) {
        Ok(text) => {
            let note = Note::parse(&text, &dir).map_err(|error| {
                Failure::new(
                    ExitKind::Configuration,
                    format!("{} cannot be read: {error}", note_path.display()),
                    "take another directory",
                )
            })?;
            let lock = lock(&dir)?;
            stale::end(&note.parties).await;
            for party in note.parties.iter().filter(|party| party.is_dir()) {
                fs::remove_dir_all(party).with_context(|| format!("cannot remove {}", party.display()))?;
            }
            lock
        }
        Err(_) => {
            let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {shown}"))?;
            if entries.filter_map(Result::ok).any(|entry| entry.file_name() != LOCK) {
                bail!(Failure::new(
                    ExitKind::Usage,
                    format!("{shown} is not empty and holds no test network"),
                    "take an empty directory",
                ));
            }
            lock(&dir)?
        }
    };
    // it is ours now, also when somebody else made it
    fs::set_permissions(&dir, Permissions::from_mode(0o700))
        .with_context(|| format!("cannot close {shown} to others"))?;
    Ok((dir, held))
}

/// Name of the file that a running test network holds locked.
const LOCK: &str = "testnet.lock";

/// Takes the directory for this process, as long as the file stays open; the system lets go when the process ends, however
/// it ends. A network that runs there is left alone.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    file.try_lock().map_err(|_| {
        Failure::new(
            ExitKind::Temporary,
            format!("a test network runs in {}", dir.display()),
            "stop it with Ctrl-C where it runs, or take another directory",
        )
    })?;
    Ok(file)
}

/// Notes what is started, so that it can be ended when this program cannot.
pub(crate) fn write_note(dir: &Path, placed: &[Party], ready: Option<Ready>) -> anyhow::Result<()> {
    let parties = placed.iter().map(|party| party.dir.clone()).collect();
    let note = Note { pid: std::process::id(), parties, ready };
    let path = dir.join(Note::FILE);
    let written =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path).and_then(|mut file| {
            // an older file may be open to others
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&serde_json::to_vec_pretty(&note)?)
        });
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Makes the directories of all parties. Returns the network file with its hints, and the identity of every node.
pub(crate) async fn init_all(
    shape: &Shape,
    placed: &[Party],
    dir: &Path,
    at: impl Fn(usize),
) -> anyhow::Result<(NetworkFile, Vec<Option<Identity>>)> {
    let count = placed.iter().take_while(|party| party.name.role == PartyRole::Authority).count();
    let (authorities, nodes) = placed.split_at(count);
    let mut network = found(shape, authorities, &at).await?;
    // what the nodes are initialised with; clients get the file with the gateways in it
    let for_nodes = dir.join("network.toml");
    network::write(&for_nodes, &network)?;

    let binary = parties::binary(PartyRole::Mix.binary())?;
    let mut identities: Vec<Option<Identity>> = vec![None; placed.len()];
    let mut running = JoinSet::new();
    for (index, party) in nodes.iter().cloned().enumerate() {
        let (binary, arguments) = (binary.clone(), node_arguments(&for_nodes, &party));
        running.spawn(async move { (index + count, parties::init(&binary, &arguments).await) });
    }
    let mut done = count;
    while let Some(joined) = running.join_next().await {
        let (index, output) = joined.context("an init was cut short")?;
        let identity = identity_of(&output?)?;
        if let Some(place) = identities.get_mut(index) {
            *place = Some(identity);
        }
        done += 1;
        at(done);
    }
    for (party, identity) in placed.iter().zip(&identities) {
        if let (PartyRole::Gateway, Some(identity)) = (party.name.role, identity) {
            network.hints.gateways.push(Hint { identity: *identity, address: party.address });
        }
    }
    Ok((network, identities))
}

/// Holds the key ceremony of the authorities, as operators would: everybody makes keys, the first founds the network with
/// the public halves of the others, the others take the network file.
async fn found(shape: &Shape, authorities: &[Party], at: impl Fn(usize)) -> anyhow::Result<NetworkFile> {
    let Some((founder, others)) = authorities.split_first() else { bail!("a network without authorities") };
    let binary = parties::binary(PartyRole::Authority.binary())?;
    let mut public = Vec::new();
    for party in others {
        let mut arguments = place_arguments(shape, party);
        arguments.push("--key-only".to_owned());
        parties::init(&binary, &arguments).await?;
        public.push(party.dir.join("authority.pub"));
    }
    parties::init(&binary, &founder_arguments(shape, founder, &public)).await?;
    at(1);
    let network_file = founder.dir.join("network.toml");
    for (number, party) in others.iter().enumerate() {
        let named = [("--dir", &party.dir), ("--network", &network_file)];
        let mut arguments = vec!["init".to_owned(), "--json".to_owned()];
        arguments.extend(named.into_iter().flat_map(|(name, path)| [name.to_owned(), path.display().to_string()]));
        parties::init(&binary, &arguments).await?;
        at(number + 2);
    }
    network::read(&network_file)
}

/// What every authority is told: where it lives and what its first document waits for.
fn place_arguments(shape: &Shape, party: &Party) -> Vec<String> {
    let mut arguments: Vec<String> = ["init", "--dir"].map(Into::into).into();
    arguments.push(party.dir.display().to_string());
    let named = [
        ("--listen", party.address.to_string()),
        ("--metrics", party.metrics.to_string()),
        // the first document draws places once and for long: it waits for everybody
        ("--genesis-gateways", shape.gateways.to_string()),
        ("--genesis-stores", shape.stores.to_string()),
    ];
    arguments.extend(named.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    arguments.extend(["--open", "--json"].map(Into::into));
    arguments
}

fn founder_arguments(shape: &Shape, party: &Party, others: &[PathBuf]) -> Vec<String> {
    let mut arguments = place_arguments(shape, party);
    let named = [
        ("--name", "testnet".to_owned()),
        ("--epoch", format!("{}ms", shape.epoch.as_millis())),
        ("--mean-delay", format!("{}ms", shape.mean_delay.as_millis())),
        ("--mixes-per-layer", shape.mixes_per_layer.to_string()),
    ];
    arguments.extend(named.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    arguments.push("--test-network".to_owned());
    for path in others {
        arguments.extend(["--authority".to_owned(), path.display().to_string()]);
    }
    if let Some(rate) = shape.lambda_p {
        arguments.extend(["--lambda-p".to_owned(), rate.to_string()]);
    }
    if let Some(retention) = shape.retention {
        arguments.extend(["--retention".to_owned(), format!("{}ms", retention.as_millis())]);
    }
    if let Some(draw) = shape.draw {
        arguments.extend(["--draw".to_owned(), draw.to_string()]);
    }
    arguments
}

fn node_arguments(network: &Path, party: &Party) -> Vec<String> {
    let named = [
        ("--network", network.display().to_string()),
        ("--role", party.name.role.name().to_owned()),
        ("--address", party.address.to_string()),
        ("--listen", party.address.to_string()),
        ("--metrics", party.metrics.to_string()),
        ("--dir", party.dir.display().to_string()),
    ];
    let mut arguments = vec!["init".to_owned()];
    arguments.extend(named.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    arguments.push("--json".to_owned());
    arguments
}

/// The identity in the JSON that `shoal-node init --json` prints.
fn identity_of(output: &str) -> anyhow::Result<Identity> {
    let line = output.lines().find(|line| line.starts_with('{')).context("init printed no JSON")?;
    let value: serde_json::Value = serde_json::from_str(line).context("init printed no JSON")?;
    let text = value.get("identity").and_then(serde_json::Value::as_str).context("init printed no identity")?;
    text.parse().context("init printed an identity that is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_on_the_machine_see_nothing() {
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        let above = tempfile::tempdir().expect("a temporary directory");
        let root = above.path().join("net");
        let (dir, held) = directory(&root).await.expect("can be made");
        assert_eq!(mode(&dir), 0o700);
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("is ours");
        fs::write(dir.join(Note::FILE), "").expect("can be written");
        write_note(&dir, &[], None).expect("can be written");
        assert_eq!(mode(&dir.join(Note::FILE)), 0o600);
        assert!(directory(&root).await.is_err(), "a network that runs is left alone");
        drop(held);
        directory(&root).await.expect("is ours already");
        assert_eq!(mode(&dir), 0o700);
    }

    #[test]
    fn the_identity_is_found_in_what_init_prints() {
        let digits = "ab".repeat(32);
        let identity = identity_of(&format!("{{\"identity\":\"{digits}\",\"role\":\"mix\"}}\n")).expect("is there");
        assert_eq!(identity.to_string(), digits);
        assert!(identity_of("done\n").is_err());
        assert!(identity_of("{\"identity\":\"xy\"}").is_err());
    }
}

//! Builds the binaries that the demonstration needs.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, bail};
use tokio::process::Command;

use super::{clock::Stopwatch, parties, progress::Progress};
use crate::failure::{ExitKind, Failure};

/// The binaries of a network with clients.
const BINARIES: [&str; 3] = ["shoal-directory", "shoal-node", "shoal"];

/// Makes sure that all binaries beside this one are there, and in a source tree that they are as new as the source. Cargo
/// tells what is stale, and shows its own progress.
pub(crate) async fn binaries(progress: Progress) -> anyhow::Result<()> {
    let current = std::env::current_exe().context("cannot tell where this program is")?;
    if let Some((root, release)) = source_tree(&current) {
        let watch = Stopwatch::start();
        let missing = BINARIES.iter().any(|name| !current.with_file_name(name).is_file());
        if missing {
            progress.say("  building all binaries; the first time takes some minutes");
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.arg("build").arg("--bins").current_dir(&root);
        if release {
            command.arg("--release");
        }
        if !missing {
            command.arg("--quiet");
        }
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().await;
        let status = status.context("cannot start cargo")?;
        if !status.success() {
            bail!(Failure::new(
                ExitKind::Failed,
                format!("the binaries do not build ({status})"),
                format!("see what cargo says above, in {}", root.display()),
            ));
        }
        let seconds = watch.elapsed().as_secs_f64();
        progress.say(&format!("  ✓ {:<34} up to date ({seconds:.1} s)", "binaries"));
    }
    for name in BINARIES {
        parties::binary(name)?;
    }
    Ok(())
}

/// The root of the source tree whose build made this binary, and whether it was a release build. `None` for an installed
/// binary.
fn source_tree(current: &Path) -> Option<(PathBuf, bool)> {
    let profile = current.parent()?;
    let release = match profile.file_name()?.to_str()? {
        "release" => true,
        "debug" => false,
        _ => return None,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    (profile.starts_with(root) && root.join("Cargo.toml").is_file()).then(|| (root.to_owned(), release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_build_of_this_tree_is_rebuilt() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("has a parent");
        assert_eq!(source_tree(&root.join("target/release/shoal-ops")), Some((root.to_owned(), true)));
        assert_eq!(source_tree(&root.join("target/debug/shoal-ops")), Some((root.to_owned(), false)));
        assert_eq!(source_tree(Path::new("/usr/bin/shoal-ops")), None);
        assert_eq!(source_tree(Path::new("/elsewhere/release/shoal-ops")), None);
    }
}

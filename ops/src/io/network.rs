//! Network files on disk.

use std::{fs, path::Path};

use anyhow::Context as _;
use shoal_protocol::network::NetworkFile;

use crate::{
    failure::{ExitKind, Failure},
    view::Network,
};

/// Reads a network file.
pub(crate) fn read(path: &Path) -> anyhow::Result<NetworkFile> {
    let text = fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the network file {}: {error}", path.display());
        Failure::new(ExitKind::InputOutput, message, "name a network file that is there")
    })?;
    NetworkFile::parse(&text).map_err(|error| {
        Failure::new(
            ExitKind::Configuration,
            format!("{}: {error}", path.display()),
            "get the file again from whoever runs the network",
        )
        .into()
    })
}

/// Writes a network file, whole or not at all.
pub(crate) fn write(path: &Path, network: &NetworkFile) -> anyhow::Result<()> {
    let fresh = path.with_extension("toml.new");
    fs::write(&fresh, network.to_toml()).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))
}

/// What the status page needs to know of a network file.
pub(crate) fn shown(network: &NetworkFile) -> Network {
    Network {
        name: network.name.clone(),
        fingerprint: network.fingerprint_words(),
        epoch_ms: network.parameters.epoch_ms,
        authorities: network.authorities.iter().map(|key| key.identity).collect(),
    }
}

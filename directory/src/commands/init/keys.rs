//! Keys, addresses and settings of this authority: those of the directory, changed where the command says so, or new ones.

use std::net::SocketAddr;

use rand::{SeedableRng as _, rngs::StdRng, rngs::SysRng};
use shoal_directory::config::{CONFIG_VERSION, Config, PublicHalf, files as names};
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::files;
use shoal_directory::io::home::Home;
use shoal_directory::io::votes::VoteLog;
use shoal_protocol::authority::AuthoritySecret;

use super::{Init, usage};

/// What the directory holds now, and what this command changed of it.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) half: PublicHalf,
    /// In words; empty when nothing was changed.
    pub(super) changed: Vec<String>,
}

impl Init {
    /// Keys and configuration of this authority: those of the directory, or new ones.
    pub(super) fn own(&self, home: &Home) -> Result<Own, Failure> {
        if home.path(names::KEY).exists() {
            return self.changed(home);
        }
        let (Some(listen), Some(metrics)) = (self.listen, self.metrics) else {
            return Err(self.without_keys());
        };
        let config = Config { config_version: CONFIG_VERSION, listen, metrics, open: self.open, later: false };
        config.validate().map_err(|error| usage(&error))?;
        let mut rng = StdRng::try_from_rng(&mut SysRng)
            .map_err(|error| Failure::new(Kind::InputOutput, format!("no randomness: {error}"), "try again"))?;
        let secret = AuthoritySecret::generate(&mut rng);
        let half = PublicHalf { address: reachable(self.address.unwrap_or(listen))?, key: secret.public().clone() };
        files::create_dir(&self.common.dir)?;
        home.write_secret(&secret)?;
        home.write_config(&config)?;
        // an authority that never voted may vote at once; one whose log is gone must not
        VoteLog::begin(&home.path(names::VOTES))?;
        home.write_public(&half)?;
        Ok(Own { half, changed: Vec::new() })
    }

    /// Takes over the addresses that the command names. The keys stay.
    fn changed(&self, home: &Home) -> Result<Own, Failure> {
        let path = home.path(names::PUBLIC);
        let secret = home.secret()?;
        let before = if path.exists() { Some(home.public()?) } else { None };
        if before.as_ref().is_some_and(|before| before.key != *secret.public()) {
            return Err(Failure::content(&path, &"holds other keys than authority.key"));
        }
        let mut config = home.config()?;
        let listened = config.listen;
        let mut changed = Vec::new();
        let mut set = |name: &str, value: &mut SocketAddr, new: Option<SocketAddr>| {
            if let Some(new) = new.filter(|new| new != value) {
                changed.push(format!("{name}: {new}, before {value}"));
                *value = new;
            }
        };
        set("listen", &mut config.listen, self.listen);
        set("metrics", &mut config.metrics, self.metrics);
        // an address that was the one it listens on goes with it
        let follows = before.as_ref().is_some_and(|before| before.address == listened);
        let wanted = self.address.or(self.listen.filter(|_| follows));
        let mut address = match before.as_ref().map(|before| before.address).or(wanted) {
            Some(address) => address,
            None => {
                return Err(Failure::new(
                    Kind::Usage,
                    format!("there is no {}", path.display()),
                    "give --address IP:PORT: it is made anew from authority.key",
                ));
            }
        };
        set("address", &mut address, wanted);
        if self.open && !config.open {
            config.open = true;
            changed.push("open: true, before false".to_owned());
        }
        let half = PublicHalf { address: reachable(address)?, key: secret.public().clone() };
        if !changed.is_empty() {
            config.validate().map_err(|error| usage(&error))?;
            home.write_config(&config)?;
        }
        if before.as_ref() != Some(&half) {
            home.write_public(&half)?;
        }
        Ok(Own { half, changed })
    }

    /// The directory holds no keys, and not all is given that making them takes: all of it at once.
    fn without_keys(&self) -> Failure {
        let given = [("--listen IP:PORT", self.listen), ("--metrics 127.0.0.1:PORT", self.metrics)];
        let missing: Vec<_> = given.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        let dir = self.common.dir.display();
        let next = if self.network.is_some() {
            format!(
                "if the keys were made before, name their directory with --dir; else make them and send authority.pub to the \
                 founder first: shoal-directory init --dir {dir} --key-only --listen IP:PORT --metrics 127.0.0.1:PORT"
            )
        } else {
            "give them too, and --address IP:PORT if others reach it at another one; see shoal-directory init --help"
                .to_owned()
        };
        let message = format!("{dir} holds no keys yet; what is missing to make them: {}", missing.join(", "));
        Failure::new(Kind::Usage, message, next)
    }
}

/// An address that others can use.
fn reachable(address: SocketAddr) -> Result<SocketAddr, Failure> {
    if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        return Err(usage(&format!("nobody can be reached at {address}: name the public address with --address")));
    }
    Ok(address)
}

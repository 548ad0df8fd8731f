//! All files of an authority's directory at once: what is wrong with each, not only with the first.

use shoal_protocol::UnixMillis;

use super::authority::Authority;
use super::failure::{Failure, Kind};
use super::home::Home;
use super::votes::VoteLog;
use crate::agreement::log;
use crate::config::files as names;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What keeps the authority from starting, or a file from being taken at SIGHUP.
    pub problems: Vec<Failure>,
    /// What the operator's files ask for, otherwise than it is in force.
    pub asks: Vec<String>,
    /// What the operator should know.
    pub notices: Vec<String>,
}

/// Reads everything, and changes nothing. The authority may run meanwhile.
#[must_use]
pub fn check(home: &Home, now: UnixMillis) -> Report {
    let each = [
        home.config().err(),
        home.network().err(),
        home.secret().err(),
        home.admitted().err(),
        home.wanted_parameters().err(),
        home.wanted_authorities().err(),
        foreign_votes(home),
        contradiction(home),
    ];
    let mut problems: Vec<Failure> = each.into_iter().flatten().collect();
    if !problems.is_empty() {
        return Report { problems, ..Report::default() };
    }
    match Authority::open(home.clone(), now) {
        Ok(authority) => {
            problems.extend(authority.misplaced());
            let notices = if problems.is_empty() { authority.advice() } else { Vec::new() };
            Report { problems, asks: authority.asks(), notices }
        }
        Err(failure) => Report { problems: vec![failure], ..Report::default() },
    }
}

fn foreign_votes(home: &Home) -> Option<Failure> {
    let network = home.network().ok()?.genesis_hash();
    let path = home.path(names::VOTES);
    match VoteLog::open(&path) {
        Ok(Some((_, bytes))) if log::network(&bytes).is_some_and(|of| of != network) => Some(VoteLog::foreign(&path)),
        Ok(_) => None,
        Err(failure) => Some(failure),
    }
}

fn contradiction(home: &Home) -> Option<Failure> {
    let path = home.path(names::CONFLICT);
    path.exists().then(|| {
        Failure::new(
            Kind::Configuration,
            format!("{} holds a document that contradicts this authority's own", path.display()),
            "compare with the other operators; remove the file only when you know what happened",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::log::{Framer, Record};
    use crate::config::{Config, PublicHalf};
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::Hash;
    use shoal_protocol::authority::AuthoritySecret;
    use shoal_protocol::network::{Founding, Hints, NetworkFile};
    use shoal_protocol::parameters::Parameters;

    fn directory(dir: &std::path::Path) -> Home {
        let home = Home::new(dir);
        let secret = AuthoritySecret::generate(&mut StdRng::seed_from_u64(1));
        let address = "127.0.0.1:9001".parse().expect("an address");
        let config = Config {
            config_version: 1,
            listen: address,
            metrics: "127.0.0.1:9002".parse().expect("an address"),
            open: false,
            later: false,
        };
        let network = NetworkFile {
            name: "reef".into(),
            genesis_time: UnixMillis(1),
            authorities: vec![secret.public().clone()],
            parameters: Parameters::test_network(),
            founding: Founding::default(),
            hints: Hints::default(),
        };
        home.write_secret(&secret).expect("written");
        home.write_config(&config).expect("written");
        home.write_public(&PublicHalf { address, key: secret.public().clone() }).expect("written");
        home.write_network(&network).expect("written");
        home
    }

    #[test]
    fn votes_of_another_network_or_authority_are_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (home, now) = (directory(dir.path()), UnixMillis(1_000));
        let network = home.network().expect("readable").genesis_hash();
        let path = home.path(names::VOTES);
        for (network, authority, starts, checks) in [
            (network, 0, true, true),
            (Hash::from_bytes([7; 32]), 0, false, false),
            // whose it is depends on the height: that is looked at when the authority starts
            (network, 1, false, true),
        ] {
            let frame = Framer::new(1, 0).frame(&Record::Opening { network, authority }.encode());
            VoteLog::begin(&path).expect("written").append(&frame).expect("written");
            let Report { problems, .. } = check(&home, now);
            assert_eq!(problems.is_empty(), checks, "{network} {authority}: {problems:?}");
            let mut authority = Authority::open(home.clone(), now).expect("readable");
            let resumed = authority.resume(now);
            assert_eq!(resumed.is_ok(), starts, "{resumed:?}");
            if let Err(failure) = resumed {
                assert!(failure.message.contains("votes.log is of another network"), "{failure}");
            }
        }
    }

    #[test]
    fn a_directory_without_an_address_in_the_network_file_is_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let Report { problems, asks, notices } = check(&directory(dir.path()), UnixMillis(1_000));
        assert_eq!((problems, asks), (Vec::new(), Vec::new()));
        assert!(notices.iter().any(|notice| notice.contains("--add-authority")), "{notices:?}");
    }
}

//! Whether this authority runs already somewhere else: two processes with one key sign against each other, and every
//! other authority keeps that as evidence.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_protocol::Identity;
use shoal_protocol::quic::{Endpoint, Protocol};
use tokio::time::timeout;

use super::failure::{Failure, Kind};

/// How long an answer is waited for. Nobody answers when all is well, so a start is late by that; a handshake from one side
/// of the earth to the other takes 0.6 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// Dials `address`, where nobody may have this authority's key while it starts.
///
/// # Errors
/// Somebody has.
pub async fn refuse(own: &Identity, address: SocketAddr) -> Result<(), Failure> {
    let here = match address {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    // without a socket or a way there nothing can be found out, and whoever listens next finds out why
    let Ok(dialler) = Endpoint::dialler(None, here) else { return Ok(()) };
    let answered = timeout(PATIENCE, dialler.connect(address, own, Protocol::Directory)).await;
    dialler.close();
    match answered {
        Ok(Ok(_)) => Err(Failure::new(
            Kind::Configuration,
            format!(
                "another process at {address} runs with this authority's key: two of them sign against each other, and the \
                 network keeps that as evidence against the key"
            ),
            "stop that one first, and never run a copy of this directory beside it. If it is a copy, take authority.key off \
             one of the two machines; without votes.log the one that stays watches until it may sign again",
        )),
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::IdentityKey;

    #[tokio::test]
    async fn only_the_own_key_is_a_twin() {
        let (own, other) = (IdentityKey::from_seed(&[1; 32]), IdentityKey::from_seed(&[2; 32]));
        let here = SocketAddr::from(([127, 0, 0, 1], 0));
        let running = Endpoint::bind(here, &own, &[Protocol::Directory]).expect("a free port");
        let address = running.local_addr().expect("bound");
        let accepting = running.clone();
        tokio::spawn(async move {
            while let Some(arrival) = accepting.accept().await {
                tokio::spawn(arrival.admit());
            }
        });
        let refused = refuse(&own.identity(), address).await.expect_err("it runs");
        assert!(refused.message.contains(&address.to_string()), "{refused}");
        assert_eq!(refuse(&other.identity(), address).await, Ok(()), "somebody else's port");
        running.close();
        assert_eq!(refuse(&own.identity(), address).await, Ok(()), "it has ended");
    }
}

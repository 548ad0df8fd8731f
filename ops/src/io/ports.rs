//! Free ports on an address of this machine, usually loopback. They are taken from below the range out of which the system gives ports to sockets that ask
//! for none, so that a party which was killed finds its port free when it starts again.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    ops::Range,
};

use rand::{Rng, RngExt as _};

/// Ports are looked for from here on. Below stand well-known services.
const LOWEST: u16 = 15_000;

/// Where Linux keeps the range of ports that it hands out.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// So many ports of `ip` that are free now, for UDP and for TCP, each once.
pub(crate) fn free(ip: IpAddr, count: usize, rng: &mut impl Rng) -> io::Result<Vec<SocketAddr>> {
    let range = range(&fs::read_to_string(EPHEMERAL).unwrap_or_default());
    let start = rng.random_range(range.clone());
    // Held until all are found, so that none is found twice.
    let mut held = Vec::with_capacity(count);
    let candidates = (start..range.end).chain(range.start..start).map(|port| SocketAddr::from((ip, port)));
    for address in candidates {
        if held.len() == count {
            break;
        }
        if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) {
            held.push((address, udp, tcp));
        }
    }
    if held.len() < count {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("fewer than {count} ports are free on {ip}")));
    }
    Ok(held.into_iter().map(|(address, ..)| address).collect())
}

/// The ports to look in: up to the first that the system hands out itself, if that leaves a thousand or more.
fn range(ephemeral: &str) -> Range<u16> {
    let first: Option<u16> = ephemeral.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
    let end = first.filter(|first| *first >= LOWEST + 1_000).unwrap_or(32_768);
    LOWEST..end
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn ports_are_free_and_different() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut ports = free(HERE, 24, &mut rng).expect("this machine has 24 free ports");
        for address in &ports {
            assert!(UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok(), "{address} is free");
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 24);
    }

    #[test]
    fn a_taken_port_is_not_given() {
        let first = free(HERE, 1, &mut StdRng::seed_from_u64(8)).expect("one port is free");
        let _taken = UdpSocket::bind(first[0]).expect("it is free");
        let second = free(HERE, 1, &mut StdRng::seed_from_u64(8)).expect("another port is free");
        assert_ne!(first, second);
    }

    #[test]
    fn the_range_ends_where_the_system_begins() {
        assert_eq!(range("32768\t60999\n"), LOWEST..32_768);
        assert_eq!(range("20000 60999"), LOWEST..20_000);
        assert_eq!(range("1024 65535"), LOWEST..32_768);
        assert_eq!(range(""), LOWEST..32_768);
    }
}

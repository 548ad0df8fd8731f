//! What the parties of the demonstration could see, read from the running processes and from everything that they wrote.

use std::{collections::BTreeSet, fs, io, net::Ipv4Addr, path::Path};

use super::watch::Board;
use crate::{
    draw::count,
    samples::Samples,
    transcript::{Search, Sight},
    view::{Column, Party},
};

/// Files larger than this are not looked into, and said to be skipped; a demonstration has none.
const FILE_MAX: u64 = 64 << 20;
/// Directories deeper than this are not looked into.
const DEPTH_MAX: usize = 8;

/// A person as their gateway knows them.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The person's name, which the gateway does not know.
    pub(crate) name: &'static str,
    /// Identity of the gateway, as the person's `status` says.
    pub(crate) gateway: String,
    /// Where the person's packets come from.
    pub(crate) addresses: Vec<String>,
}

/// The addresses of a process's UDP sockets, as the system lists them: what a packet's receiver sees.
pub(crate) fn udp_addresses(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        inode.parse::<u64>().ok()
    };
    let inodes: Vec<u64> = entries.filter_map(|entry| inode(entry.ok()?)).collect();
    let table = fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let mine = |(inode, address)| inodes.contains(&inode).then_some(address);
    table.lines().filter_map(udp_line).filter_map(mine).collect()
}

/// Inode and local address of a line of `/proc/net/udp`.
fn udp_line(line: &str) -> Option<(u64, String)> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    // a socket on all addresses sends to our gateways, which are on loopback, from loopback
    let ip = if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip };
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = fields.nth(7)?.parse().ok()?;
    Some((inode, format!("{ip}:{port}")))
}

/// What each party saw.
pub(crate) fn sights(board: &Board, people: &[Seen]) -> Vec<Sight> {
    let view = board.view();
    let counted_s = view.certificate.as_ref().map_or(0, |certificate| {
        // a gateway's figures are those of the end of the last epoch
        certificate.valid_from_ms.saturating_sub(board.genesis().0) / 1_000
    });
    let mut sights = Vec::new();
    for party in &view.parties {
        let samples = board.samples(&party.name);
        match party.column {
            Column::Gateways => sights.push(gateway(party, &samples, people, counted_s)),
            Column::L1 | Column::L2 | Column::L3 => sights.push(mix(party, &samples)),
            Column::Stores => sights.extend(store(party, &samples)),
            Column::Standby | Column::Authorities => {}
        }
    }
    sights
}

fn number(samples: &Samples, name: &str) -> String {
    samples.sum(name).map_or("an unknown number of".into(), |value| count(value.round() as u64))
}

fn gateway(party: &Party, samples: &Samples, people: &[Seen], counted_s: u64) -> Sight {
    let clients: Vec<String> = people
        .iter()
        .filter(|person| person.gateway == party.identity)
        .map(|person| format!("{} (that it is {} is not told)", person.addresses.join(", "), person.name))
        .collect();
    let rate = match samples.sum("shoal_packets_received_total") {
        Some(packets) if counted_s > 0 => format!("{:.1} packets of one size a second", packets / counted_s as f64),
        Some(_) | None => "no figures yet".to_owned(),
    };
    let observed = match clients.as_slice() {
        [] => format!("neither of them; {rate}"),
        clients => format!("{}; {rate}", clients.join(" and ")),
    };
    let may_see = "the addresses of its clients, and when they are online".into();
    Sight { party: party.name.clone(), role: "gateway".into(), observed, may_see }
}

fn mix(party: &Party, samples: &Samples) -> Sight {
    let role = match party.column {
        Column::L1 => "mix, layer 1",
        Column::L2 => "mix, layer 2",
        Column::L3 => "mix, layer 3",
        Column::Gateways | Column::Stores | Column::Standby | Column::Authorities => "mix",
    };
    let received = number(samples, "shoal_packets_received_total");
    let waiting = number(samples, "shoal_delay_queue_packets");
    let observed = format!("{received} packets, {waiting} waiting now");
    let may_see = "packets of one size and its neighbours; it keeps none".into();
    Sight { party: party.name.clone(), role: role.into(), observed, may_see }
}

fn store(party: &Party, samples: &Samples) -> [Sight; 2] {
    let requests = number(samples, "shoal_packets_received_total");
    // a store tells of its boxes in steps of a hundred and a megabyte, once an epoch: single writes must not show
    let boxes = match samples.sum("shoal_store_boxes") {
        Some(some) if some < 100.0 => "fewer than 100".to_owned(),
        _ => number(samples, "shoal_store_boxes"),
    };
    let bytes = match samples.sum("shoal_store_bytes") {
        Some(bytes) if bytes >= 1_000_000.0 => format!(", {} kB on disk", count((bytes / 1_000.0).round() as u64)),
        Some(_) | None => String::new(),
    };
    let sight = |role: &str, observed: String, may_see: &str| Sight {
        party: party.name.clone(),
        role: role.into(),
        observed,
        may_see: may_see.into(),
    };
    [
        sight("courier", format!("{requests} packets"), "SURBs with sealed envelopes, and loops of nodes"),
        sight("replica", format!("{boxes} boxes{bytes}"), "random ids with random bodies, and not who asked"),
    ]
}

/// Something that must not be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needle {
    /// What it is, for the report.
    pub(crate) name: &'static str,
    /// Its bytes; of an empty needle nothing is found.
    pub(crate) bytes: Vec<u8>,
}

impl Needle {
    /// A text as it stands.
    pub(crate) fn text(name: &'static str, text: &str) -> Self {
        Self { name, bytes: text.as_bytes().to_vec() }
    }

    /// Bytes as they are, and in hex of either case.
    pub(crate) fn bytes(name: &'static str, bytes: &[u8]) -> [Self; 3] {
        let lower: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        [
            Self { name, bytes: bytes.to_vec() },
            Self::text(name, &lower),
            Self { name, bytes: lower.to_ascii_uppercase().into_bytes() },
        ]
    }

    /// An id in hex, as the command prints it: as it stands, and the bytes that it is of.
    pub(crate) fn id(name: &'static str, hex: &str) -> Vec<Self> {
        let pair = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (0..hex.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>() {
            Some(bytes) => Self::bytes(name, &bytes).into(),
            None => vec![Self::text(name, hex)],
        }
    }
}

/// Looks through every file below `dirs` for what must not be there.
pub(crate) fn search(dirs: &[&Path], needles: &[Needle]) -> Search {
    let mut by_first: Vec<Vec<&Needle>> = vec![Vec::new(); 256];
    for needle in needles {
        let first = needle.bytes.first().and_then(|first| by_first.get_mut(usize::from(*first)));
        if let Some(place) = first {
            place.push(needle);
        }
    }
    let mut search = Search::default();
    for dir in dirs {
        look(dir, &by_first, DEPTH_MAX, &mut search);
    }
    search
}

fn look(path: &Path, by_first: &[Vec<&Needle>], depth: usize, search: &mut Search) {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let content = match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_dir() && depth > 0 => match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => look(&entry.path(), by_first, depth - 1, search),
                        Err(_) => search.skipped += 1,
                    }
                }
                return;
            }
            Err(error) => Err(error),
        },
        Ok(kind) if kind.is_file() && kind.len() <= FILE_MAX => fs::read(path),
        Ok(kind) if kind.is_dir() || kind.is_file() || kind.is_symlink() => Err(io::ErrorKind::Unsupported.into()),
        // a socket keeps nothing
        Ok(_) => return,
        Err(error) => Err(error),
    };
    match content {
        Ok(content) => {
            search.files += 1;
            search.bytes += content.len() as u64;
            let names = found(&content, by_first);
            search.found.extend(names.into_iter().map(|name| format!("{name} in {}", path.display())));
        }
        // what went while we looked is not kept by anybody
        Err(error) if gone(&error) => {}
        Err(_) => search.skipped += 1,
    }
}

/// The names of what a file holds, each once.
fn found(content: &[u8], by_first: &[Vec<&Needle>]) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    for (start, byte) in content.iter().enumerate() {
        let Some(rest) = content.get(start..) else { break };
        for needle in by_first.get(usize::from(*byte)).into_iter().flatten() {
            if rest.starts_with(&needle.bytes) {
                names.insert(needle.name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_socket_table_is_read() {
        let line =
            " 5117: 0100007F:A0F1 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 917301 2 0 0";
        assert_eq!(udp_line(line), Some((917_301, "127.0.0.1:41201".into())));
        let everywhere = " 1: 00000000:A0F1 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 5 2 0 0";
        assert_eq!(udp_line(everywhere), Some((5, "127.0.0.1:41201".into())));
        assert_eq!(udp_line("  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn our_own_socket_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = socket.local_addr().expect("is bound").to_string();
        assert!(udp_addresses(std::process::id()).contains(&address));
    }

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("below")).expect("can be made");
        fs::write(dir.path().join("below/log"), b"say hello wohello world").expect("can be written");
        let needles =
            [Needle::text("greeting", "hello world"), Needle::text("name", "Alice"), Needle::text("none", "")];
        let search = search(&[dir.path()], &needles);
        assert_eq!((search.files, search.bytes, search.skipped, search.found.len()), (1, 23, 0, 1));
        assert!(search.found[0].starts_with("greeting in "));
    }

    #[test]
    fn what_is_not_searched_is_counted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let large = fs::File::create(dir.path().join("large")).expect("can be made");
        large.set_len(FILE_MAX + 1).expect("can be sparse");
        std::os::unix::fs::symlink("large", dir.path().join("link")).expect("can be made");
        fs::create_dir_all(dir.path().join("1/2/3/4/5/6/7/8/9")).expect("can be made");
        let search = search(&[dir.path()], &[]);
        assert_eq!((search.files, search.skipped), (0, 3));
    }

    #[test]
    fn an_id_is_looked_for_raw_and_in_hex() {
        let bytes: Vec<Vec<u8>> = Needle::id("an id", "0aFf").into_iter().map(|needle| needle.bytes).collect();
        assert_eq!(bytes, [vec![0x0a, 0xff], b"0aff".to_vec(), b"0AFF".to_vec()]);
        assert_eq!(Needle::id("an id", "no hex"), [Needle::text("an id", "no hex")]);
    }
}

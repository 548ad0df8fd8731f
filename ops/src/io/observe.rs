//! What the parties of the demonstration could see, read from the running processes and from everything that they wrote.

use std::{fs, net::Ipv4Addr, path::Path};

use super::watch::Board;
use crate::{
    draw::count,
    samples::Samples,
    transcript::{Search, Sight},
    view::{Column, Party},
};

/// Files larger than this are not looked into; a demonstration has none.
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
    let saw = match clients.as_slice() {
        [] => format!("neither of them; {rate}"),
        clients => format!("{}; {rate}", clients.join(" and ")),
    };
    Sight { party: party.name.clone(), role: "gateway".into(), saw }
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
    let saw = format!("nothing: {received} packets of one size, {waiting} waiting now, none kept");
    Sight { party: party.name.clone(), role: role.into(), saw }
}

fn store(party: &Party, samples: &Samples) -> [Sight; 2] {
    let requests = number(samples, "shoal_packets_received_total");
    let boxes = number(samples, "shoal_store_boxes");
    let bytes = samples
        .sum("shoal_store_bytes")
        .map_or(String::new(), |bytes| format!(", {} kB on disk", count((bytes / 1_000.0).round() as u64)));
    let sight = |role: &str, saw: String| Sight { party: party.name.clone(), role: role.into(), saw };
    [
        sight("courier", format!("{requests} packets: SURBs with sealed envelopes, and loops of nodes")),
        sight("replica", format!("{boxes} random ids with random bodies{bytes}, and not who asked")),
    ]
}

/// Looks through every file below `dirs` for texts that must not be there.
pub(crate) fn search(dirs: &[&Path], needles: &[(&str, &[u8])]) -> Search {
    let mut search = Search::default();
    for dir in dirs {
        look(dir, needles, DEPTH_MAX, &mut search);
    }
    search
}

fn look(path: &Path, needles: &[(&str, &[u8])], depth: usize, search: &mut Search) {
    let Ok(kind) = fs::symlink_metadata(path) else { return };
    if kind.is_dir() && depth > 0 {
        let Ok(entries) = fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            look(&entry.path(), needles, depth - 1, search);
        }
    } else if kind.is_file() && kind.len() <= FILE_MAX {
        // a file that went while we looked is not kept by anybody
        let Ok(content) = fs::read(path) else { return };
        search.files += 1;
        search.bytes += content.len() as u64;
        for (name, needle) in needles {
            if contains(&content, needle) {
                search.found.push(format!("{name} in {}", path.display()));
            }
        }
    }
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    content
        .iter()
        .enumerate()
        .filter(|(_, byte)| *byte == first)
        .any(|(start, _)| content.get(start..start + needle.len()) == Some(needle))
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
        let needles: [(&str, &[u8]); 3] = [("greeting", b"hello world"), ("name", b"Alice"), ("nothing", b"")];
        let search = search(&[dir.path()], &needles);
        assert_eq!((search.files, search.bytes, search.found.len()), (1, 23, 1));
        assert!(search.found[0].starts_with("greeting in "));
    }
}

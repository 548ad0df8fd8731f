//! The line by which a node's operator asks to be admitted.

use shoal_protocol::{Identity, Role};

use super::{AdmissionError, Admitted, MAX_LINE};

/// What `shoal-node init` begins the line with.
const MARK: &str = "shoal-node-1";
/// Most characters of a word that an error repeats.
const SHOWN_MAX: usize = 80;

/// Reads the line that `shoal-node init` prints: an identity, a role, `family=…` if the node has one, and usually an
/// address, in any order. What is none of them is a mistake: a garbled word left out in silence is a node that comes to
/// nothing, or whose family does not count.
///
/// # Errors
/// What the line lacks, or which of its words is wrong.
pub fn parse_line(line: &str) -> Result<Admitted, AdmissionError> {
    let line = line.trim();
    if line.is_empty() || line.len() > MAX_LINE || line.contains('\n') {
        return Err(AdmissionError::NotALine);
    }
    let (mut identity, mut role, mut family, mut address) = (None, None, None, None);
    for word in line.split_whitespace().filter(|word| *word != MARK) {
        let (name, value) = word.split_once('=').unwrap_or(("", word));
        let (what, twice) = match name {
            "family" => ("families", family.replace(parse_family(value)?).is_some()),
            "identity" => ("identities", identity.replace(parse_identity(value)?).is_some()),
            "role" => ("roles", role.replace(parse_role(value)?).is_some()),
            "address" => ("addresses", address.replace(parse_address(value)?).is_some()),
            "" => {
                if let Ok(found) = value.parse::<Role>() {
                    ("roles", role.replace(found).is_some())
                } else if value.contains(':') {
                    ("addresses", address.replace(parse_address(value)?).is_some())
                } else if value.len() >= 32 && value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    ("identities", identity.replace(parse_identity(value)?).is_some())
                } else {
                    return Err(AdmissionError::BadWord(shown(word)));
                }
            }
            _ => return Err(AdmissionError::BadWord(shown(word))),
        };
        if twice {
            return Err(AdmissionError::Ambiguous(what));
        }
    }
    Ok(Admitted {
        identity: identity.ok_or(AdmissionError::NoIdentity)?,
        role: role.ok_or(AdmissionError::NoRole)?,
        family,
        address,
    })
}

/// Reads whom to remove: an identity, or the line by which the node was admitted.
///
/// # Errors
/// What is wrong with it.
pub fn parse_whom(text: &str) -> Result<Identity, AdmissionError> {
    let text = text.trim();
    if text.contains(char::is_whitespace) { parse_line(text).map(|node| node.identity) } else { parse_identity(text) }
}

fn parse_identity(word: &str) -> Result<Identity, AdmissionError> {
    word.parse().map_err(|_| AdmissionError::BadIdentity { found: shown(word), length: word.chars().count() })
}

fn parse_role(word: &str) -> Result<Role, AdmissionError> {
    word.parse().map_err(|_| AdmissionError::BadRole(shown(word)))
}

fn parse_family(word: &str) -> Result<[u8; 32], AdmissionError> {
    let mut family = [0; 32];
    hex::decode_to_slice(word, &mut family).map_err(|_| AdmissionError::BadFamily)?;
    Ok(family)
}

/// `HOST:PORT`, or `[IPV6]:PORT`. The name is looked up by nobody here.
fn parse_address(word: &str) -> Result<String, AdmissionError> {
    let bad = || AdmissionError::BadAddress(shown(word));
    let (host, port) = word.rsplit_once(':').ok_or_else(bad)?;
    if port.parse::<u16>().ok().is_none_or(|port| port == 0) {
        return Err(bad());
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().map(|_| word.to_owned()).map_err(|_| bad());
    }
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    // four numbers that are no address are a mistyped one, not a name
    let digits = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let good = name.split('.').all(part) && (!digits || name.parse::<std::net::Ipv4Addr>().is_ok());
    if good { Ok(word.to_owned()) } else { Err(bad()) }
}

/// The word, as far as it can be shown on a terminal.
fn shown(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(byte: u8) -> String {
        hex::encode([byte; 32])
    }

    fn node(byte: u8, role: Role) -> Admitted {
        Admitted { identity: Identity::from_bytes([byte; 32]), role, family: None, address: None }
    }

    #[test]
    fn lines_are_read_in_any_order() {
        let expected = Admitted { address: Some("node.example:4000".into()), ..node(7, Role::Mix) };
        for line in [
            format!("shoal-node-1 mix {} node.example:4000", hex(7)),
            format!("mix node.example:4000 {}\n", hex(7)),
            format!("role=mix identity={} address=node.example:4000", hex(7)),
        ] {
            assert_eq!(parse_line(&line), Ok(expected.clone()), "{line}");
        }
        assert_eq!(parse_line(&format!("{} store", hex(7))), Ok(node(7, Role::Store)));
    }

    #[test]
    fn a_line_names_a_family_by_its_word_only() {
        let expected = Admitted { family: Some([9; 32]), ..node(7, Role::Mix) };
        assert_eq!(parse_line(&format!("shoal-node-1 mix {} family={}", hex(7), hex(9))), Ok(expected.clone()));
        assert_eq!(parse_line(&format!("family={} mix identity={}", hex(9), hex(7))), Ok(expected));
        let twice = format!("mix {} family={} family={}", hex(7), hex(9), hex(8));
        assert_eq!(parse_line(&twice), Err(AdmissionError::Ambiguous("families")));
        assert_eq!(parse_line(&format!("mix {} family=home", hex(7))), Err(AdmissionError::BadFamily));
    }

    #[test]
    fn what_a_line_lacks_is_said() {
        assert_eq!(parse_line("mix a:1"), Err(AdmissionError::NoIdentity));
        assert_eq!(parse_line(&hex(1)), Err(AdmissionError::NoRole));
        assert_eq!(parse_line(&format!("{} mix store", hex(1))), Err(AdmissionError::Ambiguous("roles")));
        assert_eq!(parse_line(&format!("{} {} mix", hex(1), hex(2))), Err(AdmissionError::Ambiguous("identities")));
        assert_eq!(parse_line(&format!("{} mix a:1 b:2", hex(1))), Err(AdmissionError::Ambiguous("addresses")));
        assert_eq!(parse_line(""), Err(AdmissionError::NotALine));
        assert_eq!(parse_line(&format!("{} mix\n{} mix", hex(1), hex(2))), Err(AdmissionError::NotALine));
    }

    #[test]
    fn a_garbled_word_is_never_left_out() {
        let good = hex(0xab);
        for (line, word) in [
            (format!("mix {} node.example:4000", good.replacen('a', "", 1)), "63 characters"),
            (format!("mix {good}0 node.example:4000"), "65 characters"),
            (format!("mix {} node.example:4000", good.replacen('a', "O", 1)), "64 characters"),
            (format!("mix {good} node.example:99999"), "node.example:99999"),
            (format!("mix {good} node.example:0"), "node.example:0"),
            (format!("mix {good} 203.0.113:4000"), "203.0.113:4000"),
            (format!("mix {good} 203.0.113.444:4000"), "203.0.113.444"),
            (format!("mix {good} [2001:db8::x]:4000"), "2001:db8::x"),
            (format!("mix {good} node..example:4000"), "node..example"),
            (format!("mix {good} :4000"), ":4000"),
            (format!("mix {good} address=node.example"), "node.example"),
            (format!("mix {good} node.example"), "node.example"),
            (format!("mixx {good}"), "mixx"),
            (format!("role=mixx {good}"), "mixx"),
            (format!("mix {good} familly={}", hex(1)), "familly"),
        ] {
            let said = parse_line(&line).expect_err(&line).to_string();
            assert!(said.contains(word), "{line}: {said}");
        }
        for address in ["203.0.113.4:4000", "[2001:db8::1]:4000", "node-1.example.:4000", "localhost:1"] {
            let line = format!("mix {good} {address}");
            assert_eq!(parse_line(&line).expect(&line).address.as_deref(), Some(address));
        }
    }

    #[test]
    fn a_node_is_removed_by_identity_or_by_its_line() {
        let identity = Identity::from_bytes([7; 32]);
        assert_eq!(parse_whom(&hex(7)), Ok(identity));
        assert_eq!(parse_whom(&format!("shoal-node-1 mix {} a:1", hex(7))), Ok(identity));
        assert!(matches!(parse_whom("0707"), Err(AdmissionError::BadIdentity { length: 4, .. })));
        assert!(matches!(
            parse_whom(&hex(7).replacen('0', "", 1)),
            Err(AdmissionError::BadIdentity { length: 63, .. })
        ));
    }
}

//! Whether a request comes from our own page, or from a page elsewhere that makes the browser ask.
//!
//! A page elsewhere can point its own name at this machine (its `Host` gives it away), send requests here (`Origin` and
//! `Sec-Fetch-Site` do). Programs that are no browsers send neither of the latter two.

use std::net::SocketAddr;

/// The names by which the page may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    hosts: [String; 2],
}

/// What a request says of where it comes from. A header that is there and not readable counts as an empty one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct From<'a> {
    /// `Host`.
    pub(crate) host: Option<&'a str>,
    /// `Origin`.
    pub(crate) origin: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub(crate) site: Option<&'a str>,
}

impl Own {
    /// For a page served at `address`.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { hosts: [address.to_string(), format!("localhost:{}", address.port())] }
    }

    /// The address of the page.
    pub(crate) fn url(&self) -> String {
        let [host, _] = &self.hosts;
        format!("http://{host}/")
    }

    /// Whether the request asks for this page by its own name.
    pub(crate) fn is_host(&self, from: From<'_>) -> bool {
        from.host.is_some_and(|host| self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host)))
    }

    /// Whether nothing says that another page made the browser ask. Only for what [`Own::is_host`] allows.
    pub(crate) fn is_same_origin(&self, from: From<'_>) -> bool {
        // the page's own origin is the one of the host that it was asked by: localhost and 127.0.0.1 are two
        let own = |origin: &str| {
            let host = origin.strip_prefix("http://");
            host.is_some_and(|host| from.host.is_some_and(|asked| asked.eq_ignore_ascii_case(host)))
        };
        from.origin.is_none_or(own) && from.site.is_none_or(|site| site == "same-origin")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Own {
        Own::at("127.0.0.1:4711".parse().unwrap())
    }

    #[test]
    fn only_its_own_names_and_port_are_the_page() {
        let host = |host| own().is_host(From { host, ..From::default() });
        for good in ["127.0.0.1:4711", "localhost:4711", "LOCALHOST:4711"] {
            assert!(host(Some(good)), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1",
            "127.0.0.1:80",
            "localhost",
            "evil.example",
            "evil.example:4711",
            "127.0.0.1:4711.evil.example",
            "127.0.0.2:4711",
            "[::1]:4711",
            "127.0.0.1:04711",
            " 127.0.0.1:4711",
            "127.0.0.1:4711,evil.example",
        ] {
            assert!(!host(Some(bad)), "{bad}");
        }
        assert!(!host(None), "a browser always says");
        assert!(Own::at("[::1]:80".parse().unwrap()).is_host(From { host: Some("[::1]:80"), ..From::default() }));
    }

    #[test]
    fn requests_of_other_pages_give_themselves_away() {
        let same = |origin, site| own().is_same_origin(From { host: Some("localhost:4711"), origin, site });
        assert!(same(None, None), "a program");
        assert!(same(Some("http://localhost:4711"), Some("same-origin")));
        for origin in [
            "null",
            "",
            "http://evil.example",
            "http://localhost",
            "http://localhost:4712",
            "https://localhost:4711",
            "http://127.0.0.1:4711",
            "http://localhost:4711/",
            "localhost:4711",
        ] {
            assert!(!same(Some(origin), None), "{origin}");
            assert!(!same(Some(origin), Some("same-origin")), "{origin}");
        }
        for site in ["cross-site", "same-site", "none", "", "Same-Origin"] {
            assert!(!same(None, Some(site)), "{site}");
        }
    }
}

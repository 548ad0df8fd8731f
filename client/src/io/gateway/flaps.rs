//! When a gateway whose links stand and break again counts as failed. One break is nothing: networks move, gateways
//! restart. But a gateway that closes each link as *busy*, or for any reason, would else keep its clients for as long as
//! it likes: a link that stood is made again to the same gateway.

use std::time::Duration;

use shoal_protocol::Identity;

use super::STEADY;

/// So many links to one gateway in a row that stood and did not hold for [`STEADY`] are a failure. The pauses between them
/// double from half a second: a client leaves after a second and a half or more, and a gateway that ends one link or two of
/// an honest client, because it is full or starts anew, keeps it.
pub(super) const FLAPS_MAX: u32 = 3;

/// Links to one gateway, one after the other, that stood and broke soon.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    gateway: Option<Identity>,
    broken: u32,
}

impl Flaps {
    /// A link to `gateway` that stood broke after `lasted`; whether that makes the gateway a failed one. Then counting
    /// begins anew.
    ///
    /// Who broke it is not asked: a gateway can close a link in many ways, and what happens to datagrams on their way is
    /// noticed only after the idle time of a link, 30 s.
    pub(super) fn broke(&mut self, gateway: Identity, lasted: Duration) -> bool {
        if self.gateway != Some(gateway) {
            *self = Self { gateway: Some(gateway), broken: 0 };
        }
        self.broken = if lasted < STEADY { self.broken + 1 } else { 0 };
        let failed = self.broken >= FLAPS_MAX;
        if failed {
            self.broken = 0;
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn three_short_links_in_a_row_are_a_failure_and_a_steady_one_begins_anew() {
        let [one, other] = [1, 2].map(|byte| Identity::from_bytes([byte; 32]));
        let mut flaps = Flaps::default();
        let mut after = |gateway, lasts: &[Duration]| -> Vec<bool> {
            lasts.iter().map(|lasted| flaps.broke(gateway, *lasted)).collect()
        };
        assert_eq!(after(one, &[SOON; 7]), [false, false, true, false, false, true, false]);
        assert_eq!(after(one, &[STEADY, SOON, SOON, STEADY, SOON, SOON]), [false; 6]);
        assert_eq!(after(other, &[SOON, SOON]), [false; 2], "another gateway is not to blame for the first");
        assert_eq!(after(one, &[SOON, SOON, SOON]), [false, false, true]);
    }
}

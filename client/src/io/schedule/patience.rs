//! How long a client stays with a gateway that shows no document in force.

use std::time::Duration;

use shoal_protocol::Identity;

/// When the gateway is left. It runs from when the link first stood, and goes on when that link breaks and is made again: else
/// a gateway that breaks its links would keep a client for ever.
#[derive(Debug, Default)]
pub(super) struct Patience {
    until: Option<(Identity, Duration)>,
}

impl Patience {
    /// The link to `gateway` stands, and no document is in force: it has `length` from `now` on, unless its time runs
    /// already.
    pub(super) fn begin(&mut self, gateway: Identity, now: Duration, length: Duration) {
        if self.until.is_none_or(|(of, _)| of != gateway) {
            self.until = Some((gateway, now.saturating_add(length)));
        }
    }

    /// A document is in force.
    pub(super) fn served(&mut self) {
        self.until = None;
    }

    /// Whether the time of the gateway that the client keeps to is over; then it begins anew with the next link. That of
    /// another one is forgotten.
    pub(super) fn is_over(&mut self, aimed: Option<Identity>, now: Duration) -> bool {
        self.until = self.until.filter(|(of, _)| aimed == Some(*of));
        self.until.take_if(|(_, at)| *at <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(15);

    #[test]
    fn flaps_of_one_gateway_do_not_make_its_time_longer() {
        let [one, other] = [1, 2].map(|byte| Identity::from_bytes([byte; 32]));
        let mut patience = Patience::default();
        let at = Duration::from_secs;
        assert!(!patience.is_over(Some(one), at(1_000)), "nothing runs before a link stood");
        // it stands anew every second, and at the end it does not stand
        for second in 0..15 {
            patience.begin(one, at(second), LENGTH);
            assert!(!patience.is_over(Some(one), at(second)), "{second}");
        }
        assert!(patience.is_over(Some(one), at(15)));
        assert!(!patience.is_over(Some(one), at(16)), "once");
        // another gateway has its own time
        patience.begin(one, at(20), LENGTH);
        assert!(!patience.is_over(Some(other), at(40)));
        patience.begin(other, at(40), LENGTH);
        assert!(!patience.is_over(Some(other), at(54)));
        assert!(patience.is_over(Some(other), at(55)));
        // and who serves keeps its clients
        patience.begin(one, at(60), LENGTH);
        patience.served();
        assert!(!patience.is_over(Some(one), at(1_000)));
    }
}

//! A gateway that answers nothing, and when a client leaves it.

use shoal_protocol::Epoch;

/// Requests in a row past their deadline, with not one packet in between, that mean that the gateway is dead or
/// swallows everything: it is left. With three of four lost in the mixes, chance does that once in a thousand times;
/// QUIC's own timeout would take longer, and a gateway that is alive and silent would never be left.
const SILENT_MAX: u32 = 24;

/// Whether the gateway has fallen silent, and whether to leave it for that. Once an epoch at most: whoever drops
/// everything behind the gateways must not make a client show itself to one gateway after the other.
#[derive(Clone, Debug, Default)]
pub struct Silence {
    unanswered: u32,
    left_in: Option<Epoch>,
}

impl Silence {
    /// A packet came down, whatever it was.
    pub fn packet(&mut self) {
        self.unanswered = 0;
    }

    /// A link stands anew.
    pub fn linked(&mut self) {
        self.unanswered = 0;
    }

    /// A request ran into its deadline.
    pub fn unanswered(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// Whether to leave the gateway now, in `epoch`; when it says so, that was this epoch's one time.
    pub fn leave(&mut self, epoch: Epoch) -> bool {
        // never back: a clock that jumps to and fro gives no second time
        let leave = self.unanswered >= SILENT_MAX && self.left_in.is_none_or(|left| left < epoch);
        if leave {
            self.left_in = Some(epoch);
            self.unanswered = 0;
        }
        leave
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_packet_ends_a_silence() {
        let mut silence = Silence::default();
        for _ in 0..10 {
            (1..SILENT_MAX).for_each(|_| silence.unanswered());
            assert!(!silence.leave(Epoch(1)));
            silence.packet();
        }
    }
}

//! Whether gateways answer at all: what a user is told to look at depends on it.

/// Gateways that may be silent in a row before it is said that none answers: a client keeps so many guards.
const SILENT_MAX: usize = 3;

/// How the attempts to reach a gateway go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// No attempt has ended yet.
    #[default]
    Trying,
    /// A link stands.
    Linked,
    /// There is nobody to dial.
    NoGateway,
    /// Nothing answered: not one of the gateways that are known, or three in a row.
    Silent,
    /// Nothing answered so far; others are tried next.
    SomeSilent,
    /// The last gateway answered, and no link came of it or it was left.
    Refused,
}

/// The attempts since the last answer.
#[derive(Debug, Default)]
pub struct Attempts {
    silent: usize,
    refused: bool,
}

impl Attempts {
    /// A link stands.
    pub fn linked(&mut self) {
        *self = Self::default();
    }

    /// An attempt ended, or a link was given up; `answered`: something came back.
    pub fn failed(&mut self, answered: bool) {
        self.refused = answered;
        self.silent = if answered { 0 } else { self.silent.saturating_add(1) };
    }

    /// Where that leaves the client, which knows so many gateways.
    #[must_use]
    pub fn reach(&self, linked: bool, known: usize) -> Reach {
        match self.silent {
            _ if linked => Reach::Linked,
            _ if known == 0 => Reach::NoGateway,
            0 if self.refused => Reach::Refused,
            0 => Reach::Trying,
            silent if silent >= known.min(SILENT_MAX) => Reach::Silent,
            _ => Reach::SomeSilent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_answers_only_when_nothing_does() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.reach(false, 0), Reach::NoGateway);
        assert_eq!(attempts.reach(false, 2), Reach::Trying);
        attempts.failed(false);
        assert_eq!((attempts.reach(false, 1), attempts.reach(false, 2)), (Reach::Silent, Reach::SomeSilent));
        attempts.failed(true);
        assert_eq!(attempts.reach(false, 2), Reach::Refused, "one is there, and turns the client away");
        for expected in [Reach::SomeSilent, Reach::SomeSilent, Reach::Silent] {
            attempts.failed(false);
            assert_eq!(attempts.reach(false, 256), expected);
        }
        attempts.linked();
        assert_eq!((attempts.reach(true, 1), attempts.reach(false, 1)), (Reach::Linked, Reach::Trying));
    }
}

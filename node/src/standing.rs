//! What a node is good for now, in one word. `/readyz`, `status`, `doctor` and the next step all go by this word, so that
//! they cannot say different things.

/// Where a node stands. In this order: the first that is true counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The authorities contradict themselves; a person has to clear it.
    Contradicted,
    /// The process ends.
    Stopping,
    /// It leaves the network by itself.
    Draining,
    /// It has had no document since it was made that was in force.
    Starting,
    /// Its newest document is over: two epochs and the skew tolerance have passed without another.
    Over,
    /// A document is in force and does not list it.
    Unlisted,
    /// Listed, and something it needs is missing: keys, links, the store.
    Hindered,
    /// It serves, and the next document is overdue by half an epoch or more.
    Stale,
    /// It serves; it is listed and has no place yet, so nobody sends anything through it.
    Standby,
    /// It serves.
    Serving,
}

/// What the word is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Two certified documents of one epoch.
    pub contradicted: bool,
    /// The process ends.
    pub stopping: bool,
    /// It leaves.
    pub draining: bool,
    /// The newest document.
    pub document: Document,
    /// Something it needs is missing.
    pub hindered: bool,
}

/// The newest document, for this node, by its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Document {
    /// None was ever here.
    #[default]
    None,
    /// It is over, or not in force yet because the clock went back.
    Over,
    /// In force.
    InForce {
        /// Whether the next one is overdue.
        stale: bool,
        /// Whether it lists this node, and then whether as a standby.
        listed: Option<bool>,
    },
}

impl Standing {
    /// Every word.
    pub const ALL: [Self; 10] = [
        Self::Contradicted,
        Self::Stopping,
        Self::Draining,
        Self::Starting,
        Self::Over,
        Self::Unlisted,
        Self::Hindered,
        Self::Stale,
        Self::Standby,
        Self::Serving,
    ];

    /// The word for these facts.
    pub fn of(facts: &Facts) -> Self {
        if facts.contradicted {
            return Self::Contradicted;
        }
        if facts.stopping {
            return Self::Stopping;
        }
        if facts.draining {
            return Self::Draining;
        }
        match facts.document {
            Document::None => Self::Starting,
            Document::Over => Self::Over,
            Document::InForce { listed: None, .. } => Self::Unlisted,
            Document::InForce { .. } if facts.hindered => Self::Hindered,
            Document::InForce { stale: true, .. } => Self::Stale,
            Document::InForce { listed: Some(true), .. } => Self::Standby,
            Document::InForce { listed: Some(false), .. } => Self::Serving,
        }
    }

    /// As `status --json` has it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Contradicted => "contradicted",
            Self::Stopping => "stopping",
            Self::Draining => "draining",
            Self::Starting => "starting",
            Self::Over => "over",
            Self::Unlisted => "unlisted",
            Self::Hindered => "hindered",
            Self::Stale => "stale",
            Self::Standby => "standby",
            Self::Serving => "serving",
        }
    }

    /// The word with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.label() == label)
    }

    /// Whether others may rely on it: `/readyz` is 200, `status` says ready, `doctor` finds nothing wrong with it.
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Stale | Self::Standby | Self::Serving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVING: Facts = Facts {
        contradicted: false,
        stopping: false,
        draining: false,
        document: Document::InForce { stale: false, listed: Some(false) },
        hindered: false,
    };

    #[test]
    fn the_table_of_the_runbook() {
        let with = |document| Facts { document, ..SERVING };
        let in_force = |stale, listed| with(Document::InForce { stale, listed });
        for (facts, standing, ready) in [
            (SERVING, Standing::Serving, true),
            (in_force(false, Some(true)), Standing::Standby, true),
            (in_force(true, Some(false)), Standing::Stale, true),
            (in_force(true, Some(true)), Standing::Stale, true),
            (Facts { hindered: true, ..in_force(true, Some(false)) }, Standing::Hindered, false),
            (in_force(true, None), Standing::Unlisted, false),
            (with(Document::Over), Standing::Over, false),
            (with(Document::None), Standing::Starting, false),
            (Facts { draining: true, ..SERVING }, Standing::Draining, false),
            (Facts { draining: true, ..with(Document::Over) }, Standing::Draining, false),
            (Facts { draining: true, stopping: true, ..SERVING }, Standing::Stopping, false),
            (Facts { contradicted: true, stopping: true, ..SERVING }, Standing::Contradicted, false),
        ] {
            assert_eq!((Standing::of(&facts), Standing::of(&facts).is_ready()), (standing, ready), "{facts:?}");
        }
        let runbook = include_str!("../../ops/runbooks/nodes.md");
        for standing in Standing::ALL {
            assert_eq!(Standing::from_label(standing.label()), Some(standing));
            let code = if standing.is_ready() { "200" } else { "503" };
            let row = runbook.lines().find(|line| line.starts_with(&format!("| `{}` ", standing.label())));
            assert!(row.is_some_and(|row| row.contains(code)), "{standing:?}: {row:?}");
        }
    }
}

//! Which want gets the tick: sends, blob reads, hot, warm, idle, in this order; sends and blob reads take at most three
//! of four ticks while polls wait (design §3.7).
//!
//! Four rules keep the order from starving anyone: one of three ticks for sends and blob reads goes to the reads that are not
//! for strangers, for a file that is written for half an hour must not keep a commit from being read; the own inbox, whose
//! rate is constant and small (one poll in 60 s at 2 ticks a second is 1 %), goes before the other polls; a poll that waits for
//! four of its mean gaps goes before younger classes, every other time; and second copies, which go when nothing else waits,
//! get one tick in 16 all the same.
//!
//! At 2 ticks a second (`lambda_p` of a public network) that is a copy every 8 s, 10,800 a day, 151,200 in the retention time
//! of 14 days: what is written while every tick is wanted elsewhere gets its second copy too. It costs all
//! others together 6 % of the ticks, and only while a copy waits. Pure; call [`Budget::choose`] once per tick.

use crate::want::Rank;

/// Bulk ticks in a row before a waiting poll is served.
const BULK_RUN_MAX: u8 = 3;
/// Bulk ticks in a row that go to writes while a read waits.
const SEND_RUN_MAX: u8 = 2;
/// Ticks in a row that go elsewhere while a copy waits.
const COPY_PASSED_MAX: u8 = 15;

/// What could be served now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// A write is ready.
    pub send: bool,
    /// A blob or card read is ready.
    pub blob_read: bool,
    /// That read is not for a stranger: writes leave it a third of what both take.
    pub read_owed: bool,
    /// A hot chain's clock has run out.
    pub hot: bool,
    /// A warm chain's clock has run out.
    pub warm: bool,
    /// An idle chain's clock has run out.
    pub idle: bool,
    /// A second copy of what one replica has is ready to be written.
    pub copy: bool,
    /// The inbox's clock has run out.
    pub inbox: bool,
    /// A class of [`Waiting::warm`] or [`Waiting::idle`] whose oldest poll waits for more than four mean gaps.
    pub overdue: Option<Rank>,
}

/// Counts what the last ticks went to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    bulk_run: u8,
    send_run: u8,
    copy_passed: u8,
    /// The last poll was an overdue one.
    overdue_had: bool,
}

impl Budget {
    /// The rank that this tick goes to; `None` when nothing waits.
    pub fn choose(&mut self, waiting: Waiting) -> Option<Rank> {
        if !waiting.copy {
            // one that comes later waits its own time
            self.copy_passed = 0;
            return self.first_choice(waiting);
        }
        if self.copy_passed < COPY_PASSED_MAX
            && let Some(rank) = self.first_choice(waiting)
        {
            self.copy_passed += 1;
            return Some(rank);
        }
        self.copy_passed = 0;
        Some(Rank::Copy)
    }

    /// What goes before copies.
    fn first_choice(&mut self, waiting: Waiting) -> Option<Rank> {
        let poll = self.poll(waiting);
        let bulk = match (waiting.send, waiting.blob_read) {
            (true, true) if waiting.read_owed && self.send_run >= SEND_RUN_MAX => Some(Rank::BlobRead),
            (true, _) => Some(Rank::Send),
            (false, true) => Some(Rank::BlobRead),
            (false, false) => None,
        };
        match (bulk, poll) {
            (Some(_), Some(poll)) if self.bulk_run >= BULK_RUN_MAX => {
                self.bulk_run = 0;
                Some(self.polled(waiting, poll))
            }
            (Some(bulk), _) => {
                self.send_run = if bulk == Rank::Send { (self.send_run + 1).min(SEND_RUN_MAX) } else { 0 };
                self.bulk_run = (self.bulk_run + 1).min(BULK_RUN_MAX);
                Some(bulk)
            }
            (None, poll) => {
                self.bulk_run = 0;
                poll.map(|poll| self.polled(waiting, poll))
            }
        }
    }

    fn polled(&mut self, waiting: Waiting, poll: Rank) -> Rank {
        self.overdue_had = waiting.overdue == Some(poll);
        poll
    }

    fn poll(&self, waiting: Waiting) -> Option<Rank> {
        if waiting.inbox {
            return Some(Rank::Inbox);
        }
        // at a low rate many that are overdue would take all of them
        if waiting.overdue.is_some() && !(waiting.hot && self.overdue_had) {
            return waiting.overdue;
        }
        [(waiting.hot, Rank::Hot), (waiting.warm, Rank::Warm), (waiting.idle, Rank::Idle)]
            .into_iter()
            .find_map(|(waits, rank)| waits.then_some(rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_takes_three_of_four_ticks_while_polls_wait() {
        let mut budget = Budget::default();
        let waiting = Waiting { send: true, blob_read: true, read_owed: true, hot: true, ..Waiting::default() };
        let taken: Vec<_> = (0..400).filter_map(|_| budget.choose(waiting)).collect();
        assert_eq!(taken.iter().filter(|rank| **rank == Rank::Send).count(), 200);
        assert_eq!(taken.iter().filter(|rank| **rank == Rank::BlobRead).count(), 100);
        assert_eq!(taken.iter().filter(|rank| **rank == Rank::Hot).count(), 100);
        assert!(taken.windows(4).all(|four| four.contains(&Rank::Hot)));
    }

    #[test]
    fn a_read_is_not_starved_by_writes_nor_costs_them_when_there_is_none() {
        let mut budget = Budget::default();
        let both = Waiting { send: true, blob_read: true, read_owed: true, ..Waiting::default() };
        let taken: Vec<_> = (0..300).filter_map(|_| budget.choose(both)).collect();
        assert!(taken.chunks(3).all(|three| three == [Rank::Send, Rank::Send, Rank::BlobRead]));
        let alone = Waiting { blob_read: false, ..both };
        assert!((0..100).all(|_| budget.choose(alone) == Some(Rank::Send)));
        let strangers = Waiting { read_owed: false, ..both };
        assert!((0..100).all(|_| budget.choose(strangers) == Some(Rank::Send)));
        // one that comes has waited for nobody yet, but for the writes that went before
        assert_eq!(budget.choose(both), Some(Rank::BlobRead));
    }

    #[test]
    fn bulk_takes_every_tick_while_no_poll_waits() {
        let mut budget = Budget::default();
        let waiting = Waiting { blob_read: true, ..Waiting::default() };
        assert!((0..100).all(|_| budget.choose(waiting) == Some(Rank::BlobRead)));
    }

    #[test]
    fn polls_go_in_order_and_nobody_starves() {
        let mut budget = Budget::default();
        let all = Waiting { hot: true, warm: true, idle: true, ..Waiting::default() };
        assert_eq!(budget.choose(all), Some(Rank::Hot));
        assert_eq!(budget.choose(Waiting { hot: false, ..all }), Some(Rank::Warm));
        assert_eq!(budget.choose(Waiting { overdue: Some(Rank::Idle), ..all }), Some(Rank::Idle));
        assert_eq!(budget.choose(Waiting { inbox: true, ..all }), Some(Rank::Inbox));
        assert_eq!(budget.choose(Waiting::default()), None);
    }

    #[test]
    fn what_is_overdue_takes_half_of_the_polls_from_hot_ones() {
        let mut budget = Budget::default();
        let waiting = Waiting { hot: true, warm: true, idle: true, overdue: Some(Rank::Warm), ..Waiting::default() };
        let taken: Vec<_> = (0..100).filter_map(|_| budget.choose(waiting)).collect();
        assert!(taken.chunks(2).all(|two| two == [Rank::Warm, Rank::Hot]), "{taken:?}");
        let cold = Waiting { hot: false, overdue: Some(Rank::Idle), ..waiting };
        assert!((0..100).all(|_| budget.choose(cold) == Some(Rank::Idle)));
    }

    #[test]
    fn copies_go_when_nothing_waits_and_get_one_tick_in_sixteen_whatever_waits() {
        let only = Waiting { copy: true, ..Waiting::default() };
        let mut budget = Budget::default();
        assert!((0..100).all(|_| budget.choose(only) == Some(Rank::Copy)));
        let polls = Waiting { hot: true, warm: true, idle: true, inbox: true, overdue: Some(Rank::Idle), ..only };
        let sends = Waiting { send: true, blob_read: true, ..only };
        for waiting in [Waiting { hot: true, ..only }, polls, sends, Waiting { send: true, ..polls }] {
            let mut budget = Budget::default();
            let taken: Vec<_> = (0..1_600).filter_map(|_| budget.choose(waiting)).collect();
            assert_eq!(taken.len(), 1_600);
            assert_eq!(taken.iter().filter(|rank| **rank == Rank::Copy).count(), 100, "{waiting:?}");
            assert!(taken.windows(16).all(|sixteen| sixteen.contains(&Rank::Copy)), "{waiting:?}");
        }
        // without one, nobody loses a tick, and one that comes has not waited yet
        let mut budget = Budget::default();
        let hot = Waiting { hot: true, ..Waiting::default() };
        assert!((0..100).all(|_| budget.choose(hot) == Some(Rank::Hot)));
        assert!((0..15).all(|_| budget.choose(Waiting { copy: true, ..hot }) == Some(Rank::Hot)));
        assert_eq!(budget.choose(Waiting { copy: true, ..hot }), Some(Rank::Copy));
    }

    #[test]
    fn a_copy_in_between_takes_no_turn_from_polls_or_sends() {
        let mut budget = Budget::default();
        let waiting = Waiting { send: true, hot: true, copy: true, ..Waiting::default() };
        let taken: Vec<_> = (0..1_600).filter_map(|_| budget.choose(waiting)).collect();
        let others: Vec<_> = taken.into_iter().filter(|rank| *rank != Rank::Copy).collect();
        assert!(others.chunks(4).all(|four| four == [Rank::Send, Rank::Send, Rank::Send, Rank::Hot]));
    }
}

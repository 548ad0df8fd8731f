//! Where loops are lost: a sequential test for every place that a node's own loops cross.
//!
//! A node knows the whole way of each of its loops, so a loss can be held against every place on it: the nodes, the links
//! between them, and the node itself with all that it sends and receives. The first hop and the link to it lie on the same
//! loops and are one place. Two rules look at each place, over the loops that cross it, with honest loss of p₀ = 1 % at most:
//!
//! - **Loss of a tenth** (CUSUM, Page 1954). A loss adds ln(p₁/p₀) = 2.303, a return takes away ln((1−p₀)/(1−p₁)) = 0.095,
//!   with p₁ = 10 %; the sum never falls below 0. At 12.0 the alarm is raised. By Wald's inequality a place whose loops are
//!   lost at p₀ passes 12 within n loops with probability below n·e⁻¹² = n·6.1·10⁻⁶, and far more rarely at the some per
//!   mille of a calm network: at 0.3 % six losses must fall into some fifty loops. At 10 % on top of p₀ a loop adds 0.166 on
//!   average: 12 after some 72 loops, and within 125 in eight to nine cases of ten. At 5 % it is found late or not at all.
//! - **Total loss.** Four losses with no return between them. At p₀ that is a false alarm in 10⁸ loops of a place. Loops take
//!   turns over the outgoing links ([`crate::rounds`]), so 28 s × width at 0.5 loops/s are 14 to each link, give or take the
//!   Poisson process: four are there with probability above 1 − 10⁻⁶ from a width of 2 on. With loops that draw their first hop
//!   each for itself even two losses would come too late in 1.2·10⁻⁵ of all cases (e⁻¹⁴ × 15), and one loss must not alarm.
//!
//! **Which place.** When a lost loop lets some of its places pass a rule, the one with most against it is named: a return
//! over another way is credit for all innocents on it and for nobody else. Places that tie are named together until a loop
//! returns over some of them, or is lost over some of them. From then on a loss on a way with a named place is held against that place only, and what was
//! held against all others before is forgotten. When everything is lost, [`Spot::Own`] has most against it, because it lies
//! on every loop: then the fault is here, or the network's as a whole, and no other node is named. A total loss is named
//! rightly; one of a tenth, between places that share half of their loops (a width of 2), wrongly in one case of ten.
//!
//! A total loss that a return refutes before its sum has passed as well was chance, or another place's losses: the place is not
//! named any longer, and losses on its ways count for all places again. Else an innocent that is named a moment before the
//! culprit would hide every second loss of the culprit's.
//!
//! For the same reason a sum that has passed waits while an unbroken run of two or more on the same way is undecided: a few
//! honest losses and the first three of a dead link would else name [`Spot::Own`], which lies on every loop and explains all of
//! them from then on.
//!
//! **This node itself.** While [`Spot::Own`] is named it explains every loss, those of a place that goes dead then as well.
//! So what was named before it is forgotten, and with every loss it is asked which places lose more than the rest
//! (`alarm/rehearing.rs`). They are named beside it, and take what is lost over them: then it is cleared if the rest returns.
//!
//! **Clearing.** A named place keeps its sum, at most 12; at 0 it is cleared: after 97 to 126 returns more than 24 times the
//! losses. That is as many as finding a loss of a tenth takes, so an alarm does not flap.

mod rehearing;

use rehearing::Rehearing;
use std::collections::BTreeMap;

/// ln(p₁/p₀) in thousandths.
const LOSS: u32 = 2_303;
/// ln((1−p₀)/(1−p₁)) in thousandths.
const RETURN: u32 = 95;
/// The sum that raises the alarm, in thousandths.
const RAISE: u32 = 12_000;
/// Losses without a return between them that raise it.
const RUN: u32 = 4;
/// A run that may become one.
const UNDECIDED: u32 = 2;
/// Places remembered at most: 4,096 × about 120 bytes = 0.5 MB. One is remembered for at most 25 returns per loss held against
/// it, so a network that works never comes near; beyond it links between others are not remembered.
const SPOTS_MAX: usize = 4_096;

/// A place that loops cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// Everything this node sends or receives.
    Own,
    /// Another node. Of a next hop, also the link to it; of a node that sends to this one, also the link from it.
    Node([u8; 32]),
    /// The link between two other nodes.
    Between([u8; 32], [u8; 32]),
}

/// The places on a way, which names the other nodes in their order.
fn spots(way: &[[u8; 32]]) -> impl Iterator<Item = Spot> {
    let nodes = way.iter().map(|node| Spot::Node(*node));
    let links = way.windows(2).filter_map(|pair| match pair {
        [from, to] => Some(Spot::Between(*from, *to)),
        _ => None,
    });
    std::iter::once(Spot::Own).chain(nodes).chain(links)
}

#[derive(Debug, Clone, Copy, Default)]
struct Score {
    /// The sum, in thousandths; above 0, or the place is forgotten.
    points: u32,
    /// Losses since the last return.
    run: u32,
    /// The raise that named it; several places have the same one while nothing tells them apart.
    raised: Option<u32>,
    /// It loses more than the rest of what this node loses: losses over it are held against nothing else.
    more: bool,
}

/// The tests of all places. Pure: it is told how each loop ended, in the order in which that became known.
#[derive(Debug, Default)]
pub struct Alarm {
    scores: BTreeMap<Spot, Score>,
    raises: u32,
    /// While [`Spot::Own`] is named.
    rehearing: Option<Rehearing>,
}

impl Alarm {
    /// A loop over `way` came back in time, or did not.
    pub fn settle(&mut self, way: &[[u8; 32]], returned: bool) {
        if returned {
            self.credit(way)
        } else {
            self.charge(way)
        }
        self.rehear(way, returned);
    }

    fn rehear(&mut self, way: &[[u8; 32]], returned: bool) {
        if !self.is_raised(&Spot::Own) {
            self.rehearing = None;
            return;
        }
        if self.takes_more(way) {
            return;
        }
        let more = self.rehearing.get_or_insert_default().settle(way, returned);
        if more.is_empty() {
            return;
        }
        self.rehearing = None;
        self.raises = self.raises.wrapping_add(1);
        let score = Score { points: RAISE, run: 0, raised: Some(self.raises), more: true };
        self.scores.extend(more.into_iter().map(|spot| (spot, score)));
    }

    fn credit(&mut self, way: &[[u8; 32]]) {
        self.tell_apart(way, true);
        for spot in spots(way) {
            let Some(score) = self.scores.get_mut(&spot) else { continue };
            // what was held against all others was forgotten when it was named: now nothing is held against anybody
            let refuted = score.points < RAISE && score.run >= RUN;
            score.points = score.points.saturating_sub(RETURN);
            score.run = 0;
            if refuted || score.points == 0 {
                self.scores.remove(&spot);
            }
        }
    }

    fn charge(&mut self, way: &[[u8; 32]]) {
        self.tell_apart(way, false);
        let (known, more) = (self.explains(way), self.takes_more(way));
        let mut passed = Vec::new();
        for spot in spots(way) {
            let takes = |score: &Score| score.raised.is_some() && (score.more || !more);
            if known && !self.scores.get(&spot).is_some_and(takes) {
                continue;
            }
            if self.scores.len() >= SPOTS_MAX && matches!(spot, Spot::Between(..)) && !self.scores.contains_key(&spot) {
                continue;
            }
            let score = self.scores.entry(spot).or_default();
            score.points = (score.points + LOSS).min(RAISE);
            score.run = score.run.saturating_add(1);
            if !known && (score.run >= RUN || score.points == RAISE) {
                passed.push((spot, *score));
            }
        }
        // a sum waits while an unbroken run on the same way may yet become a total loss, which says more
        let undecided = |spot: Spot| self.scores.get(&spot).is_some_and(|score| (UNDECIDED..RUN).contains(&score.run));
        if passed.iter().all(|(_, score)| score.run < RUN) && spots(way).any(undecided) {
            return;
        }
        self.raise(&passed);
    }

    /// Of places that were named together and of which this way has some and not others: who is on it when a loop returns is
    /// cleared, who is not on it when one is lost.
    fn tell_apart(&mut self, way: &[[u8; 32]], returned: bool) {
        let on_way: Vec<Spot> = spots(way).collect();
        let mut raises: Vec<(u32, bool)> =
            self.scores.iter().filter_map(|(spot, score)| Some((score.raised?, on_way.contains(spot)))).collect();
        raises.sort_unstable();
        raises.dedup();
        let divided = |raise: u32| raises.contains(&(raise, true)) && raises.contains(&(raise, false));
        self.scores.retain(|spot, score| match score.raised {
            Some(raise) if divided(raise) => on_way.contains(spot) != returned,
            Some(_) | None => true,
        });
    }

    /// Names those of `passed` with most against them.
    fn raise(&mut self, passed: &[(Spot, Score)]) {
        // an unbroken run of losses says more than any sum with returns in it
        let weight = |score: &Score| if score.run >= RUN { (score.run, 0) } else { (0, score.points) };
        let Some(most) = passed.iter().map(|(_, score)| weight(score)).max() else { return };
        self.raises = self.raises.wrapping_add(1);
        let own = passed.iter().any(|(spot, score)| *spot == Spot::Own && weight(score) == most);
        // an innocent that was named before would be the only one that everybody's losses speak against
        self.scores.retain(|_, score| score.raised.is_some() && !own);
        for (spot, score) in passed.iter().filter(|(_, score)| weight(score) == most) {
            self.scores.insert(*spot, Score { raised: Some(self.raises), ..*score });
        }
    }

    fn is_raised(&self, spot: &Spot) -> bool {
        self.scores.get(spot).is_some_and(|score| score.raised.is_some())
    }

    /// Whether a place on the way is named that loses more than the rest.
    fn takes_more(&self, way: &[[u8; 32]]) -> bool {
        spots(way).any(|spot| self.scores.get(&spot).is_some_and(|score| score.raised.is_some() && score.more))
    }

    /// Whether a place on the way is named: then a loss is its.
    fn explains(&self, way: &[[u8; 32]]) -> bool {
        spots(way).any(|spot| self.is_raised(&spot))
    }

    /// Whether a loss on this way speaks against `node`, as far as is known: not when a place is named that has nothing to do
    /// with it. A named link of the node excuses nobody at its ends.
    pub fn blames(&self, way: &[[u8; 32]], node: &[u8; 32]) -> bool {
        let touches = |spot: &Spot| match spot {
            Spot::Own => false,
            Spot::Node(named) => named == node,
            Spot::Between(from, to) => from == node || to == node,
        };
        !self.explains(way) || spots(way).any(|spot| touches(&spot) && self.is_raised(&spot))
    }

    /// Forgets places of nodes that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&[u8; 32]) -> bool) {
        let keep = |spot: &Spot| match spot {
            Spot::Own => true,
            Spot::Node(node) => keep(node),
            Spot::Between(from, to) => keep(from) && keep(to),
        };
        self.scores.retain(|spot, _| keep(spot));
        if let Some(rehearing) = &mut self.rehearing {
            rehearing.retain(keep);
        }
    }

    /// The places that lose loops, in their order.
    pub fn losing(&self) -> Vec<Spot> {
        self.scores.iter().filter(|(_, score)| score.raised.is_some()).map(|(spot, _)| *spot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which ways lose, and the place that is to blame.
    type Culprit = (fn([u8; 3]) -> bool, Spot);

    fn way(nodes: [u8; 3]) -> [[u8; 32]; 3] {
        nodes.map(|node| [node; 32])
    }

    /// All ways over two nodes a step, in turn, `rounds` times; `lost` says which do not return.
    fn run(alarm: &mut Alarm, rounds: usize, lost: impl Fn([u8; 3]) -> bool) {
        for round in 0..8 * rounds {
            let bit = |at: usize| u8::from(round >> at & 1 == 1);
            let nodes = [10 + bit(0), 20 + bit(1), 30 + bit(2)];
            alarm.settle(&way(nodes), !lost(nodes));
        }
    }

    #[test]
    fn the_place_of_a_total_loss_is_named_wherever_it_is() {
        let culprits: [Culprit; 5] = [
            (|way| way[0] == 10, Spot::Node([10; 32])),
            (|way| way[1] == 21, Spot::Node([21; 32])),
            (|way| way[2] == 30, Spot::Node([30; 32])),
            (|way| way[0] == 10 && way[1] == 21, Spot::Between([10; 32], [21; 32])),
            (|_| true, Spot::Own),
        ];
        for (lost, spot) in culprits {
            let mut alarm = Alarm::default();
            run(&mut alarm, 5, lost);
            assert_eq!(alarm.losing(), [spot]);
        }
    }

    #[test]
    fn places_on_the_same_loops_are_named_together_until_one_returns() {
        let mut alarm = Alarm::default();
        (0..4).for_each(|_| alarm.settle(&way([1, 2, 3]), false));
        assert_eq!(alarm.losing().len(), 6, "{:?}", alarm.losing());
        alarm.settle(&way([1, 4, 3]), true);
        assert_eq!(
            alarm.losing(),
            [Spot::Node([2; 32]), Spot::Between([1; 32], [2; 32]), Spot::Between([2; 32], [3; 32])]
        );
        alarm.settle(&way([5, 2, 6]), true);
        assert_eq!(alarm.losing(), [Spot::Between([1; 32], [2; 32]), Spot::Between([2; 32], [3; 32])]);
        alarm.settle(&way([1, 2, 9]), false);
        assert_eq!(alarm.losing(), [Spot::Between([1; 32], [2; 32])], "the other one did not lose this");
    }

    #[test]
    fn a_total_loss_that_a_return_refutes_is_taken_back() {
        let mut alarm = Alarm::default();
        // node 20 is innocent: what is lost over it is lost at node 10, and once by chance
        alarm.settle(&way([11, 20, 31]), false);
        (0..3).for_each(|_| alarm.settle(&way([10, 20, 30]), false));
        assert!(alarm.losing().contains(&Spot::Node([20; 32])), "{:?}", alarm.losing());
        alarm.settle(&way([11, 20, 30]), true);
        assert!(alarm.losing().is_empty(), "{:?}", alarm.losing());
        // and the next losses count for the culprit
        (0..4).for_each(|n| {
            alarm.settle(&way([10, 20 + n % 2, 30 + n / 2]), false);
            alarm.settle(&way([11, 20 + n % 2, 30 + n / 2]), true);
        });
        assert_eq!(alarm.losing(), [Spot::Node([10; 32])]);
    }

    #[test]
    fn an_alarm_is_cleared_after_a_hundred_good_loops_and_not_before() {
        let mut alarm = Alarm::default();
        run(&mut alarm, 2, |way| way[0] == 10);
        assert_eq!(alarm.losing(), [Spot::Node([10; 32])]);
        let good = |alarm: &mut Alarm, count| (0..count).for_each(|_| alarm.settle(&way([10, 20, 30]), true));
        good(&mut alarm, 96);
        assert_eq!(alarm.losing().len(), 1);
        good(&mut alarm, 31);
        assert!(alarm.losing().is_empty());
        assert!(alarm.scores.is_empty(), "{alarm:?}");
    }

    #[test]
    fn a_loss_with_a_known_place_speaks_against_nobody_else() {
        let mut alarm = Alarm::default();
        assert!(alarm.blames(&way([1, 2, 3]), &[1; 32]), "nothing is known");
        run(&mut alarm, 2, |way| way[1] == 21);
        assert!(!alarm.blames(&way([10, 21, 30]), &[10; 32]));
        assert!(alarm.blames(&way([10, 21, 30]), &[21; 32]));
        assert!(alarm.blames(&way([10, 20, 30]), &[10; 32]));
        let mut alarm = Alarm::default();
        run(&mut alarm, 5, |way| way[0] == 10 && way[1] == 21);
        assert_eq!(alarm.losing(), [Spot::Between([10; 32], [21; 32])]);
        assert!(alarm.blames(&way([10, 21, 30]), &[10; 32]) && alarm.blames(&way([10, 21, 30]), &[21; 32]));
        assert!(!alarm.blames(&way([10, 21, 30]), &[30; 32]));
        alarm.retain(|node| *node != [21; 32]);
        assert!(alarm.losing().is_empty());
    }

    #[test]
    fn an_outage_hides_no_place_that_goes_dead_after_it() {
        let culprits: [Culprit; 3] = [
            (|way| way[0] == 10, Spot::Node([10; 32])),
            (|way| way[1] == 21, Spot::Node([21; 32])),
            (|way| way[0] == 10 && way[1] == 21, Spot::Between([10; 32], [21; 32])),
        ];
        for (lost, spot) in culprits {
            let mut alarm = Alarm::default();
            run(&mut alarm, 4, |_| true);
            assert_eq!(alarm.losing(), [Spot::Own]);
            run(&mut alarm, 8, lost);
            assert_eq!(alarm.losing(), [Spot::Own, spot], "after an outage");
            let guilty = if spot == Spot::Node([10; 32]) { [10; 32] } else { [21; 32] };
            assert!(alarm.blames(&way([10, 21, 30]), &guilty) && !alarm.blames(&way([10, 21, 30]), &[30; 32]));
            run(&mut alarm, 40, lost);
            assert_eq!(alarm.losing(), [spot], "this node loses nothing any more");
        }
    }

    #[test]
    fn dead_places_do_not_hide_each_other_behind_this_node() {
        let mut alarm = Alarm::default();
        run(&mut alarm, 4, |_| true);
        run(&mut alarm, 40, |way| way[0] == 10 || way[2] == 31);
        assert!(alarm.losing().contains(&Spot::Node([10; 32])) && alarm.losing().contains(&Spot::Node([31; 32])));
        run(&mut alarm, 80, |way| way[0] == 10 || way[2] == 31);
        assert_eq!(alarm.losing(), [Spot::Node([10; 32]), Spot::Node([31; 32])]);
    }

    #[test]
    fn a_step_with_one_node_stands_for_none_of_the_others() {
        // node 10 is on every loop: nothing tells it from this one
        let mut alarm = Alarm::default();
        let all = |alarm: &mut Alarm, rounds: usize, lost: fn([u8; 3]) -> bool| {
            for round in 0..8 * rounds {
                let nodes = [10, 20 + u8::from(round & 1 == 1), 30 + u8::from(round & 2 == 2)];
                alarm.settle(&way(nodes), !lost(nodes));
            }
        };
        all(&mut alarm, 4, |_| true);
        assert_eq!(alarm.losing(), [Spot::Own, Spot::Node([10; 32])]);
        all(&mut alarm, 8, |way| way[1] == 21);
        assert!(alarm.losing().contains(&Spot::Node([21; 32])), "{:?}", alarm.losing());
        all(&mut alarm, 40, |way| way[1] == 21);
        let named = alarm.losing();
        assert!(named.contains(&Spot::Node([21; 32])) && !named.contains(&Spot::Own), "{named:?}");
        assert!(!named.contains(&Spot::Node([10; 32])), "{named:?}");
    }

    #[test]
    fn who_was_named_before_everything_is_lost_is_not_blamed_for_it() {
        let mut alarm = Alarm::default();
        run(&mut alarm, 2, |way| way[1] == 21);
        assert_eq!(alarm.losing(), [Spot::Node([21; 32])]);
        run(&mut alarm, 4, |_| true);
        assert_eq!(alarm.losing(), [Spot::Own]);
        assert!(!alarm.blames(&way([10, 21, 30]), &[21; 32]));
    }

    #[test]
    fn who_loses_half_of_everything_names_nobody_else() {
        let mut alarm = Alarm::default();
        // no pattern of the ways: the parity of a few bits of a product
        run(&mut alarm, 1, |_| true);
        for n in 0..4_000_u32 {
            let bit = |at: u32| u8::from(n >> at & 1 == 1);
            let lost = n.wrapping_mul(0x9e37_79b1) >> 28 & 1 == 1;
            alarm.settle(&way([10 + bit(0), 20 + bit(1), 30 + bit(2)]), !lost);
            assert_eq!(alarm.losing(), [Spot::Own], "{n}");
        }
        assert!(alarm.rehearing.as_ref().is_some_and(|rehearing| rehearing.accounts() < 20));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut alarm = Alarm::default();
        let node = |of: u8, n: u32| {
            let mut node = [of; 32];
            node[..4].copy_from_slice(&(n % 600).to_be_bytes());
            node
        };
        let mut most = 0;
        for n in 0..60_000u32 {
            // so few that no alarm is raised
            let lost = (n.wrapping_mul(0x9e37_79b1) >> 16).is_multiple_of(40);
            alarm.settle(&[node(1, n), node(2, n.wrapping_mul(7) / 11), node(3, n.wrapping_mul(13) / 17)], !lost);
            most = most.max(alarm.scores.len());
        }
        // 1,800 nodes and this one are always remembered
        assert!(most > 1_000, "{most}");
        assert!(most <= SPOTS_MAX + 1_801, "{most}");
    }
}

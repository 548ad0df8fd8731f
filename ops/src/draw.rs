//! Where things stand in the drawing of the network: a card for every party, columns from gateway to store in the order
//! of a packet's way, and a line for every step that the topology allows. Lengths are units of the drawing's view box.

use crate::view::{Column, Party, State};

/// Width of the drawing.
pub(crate) const WIDTH: u32 = 1_120;
/// Width of a card.
pub(crate) const CARD_WIDTH: u32 = 142;
/// Height of a card.
pub(crate) const CARD_HEIGHT: u32 = 50;

/// From the top of a card to the top of the next one below.
const ROW: u32 = 66;
/// Top of the first card of the columns; above are the authorities and the columns' headings.
const TOP: u32 = 142;
/// Top of the authorities' cards.
const AUTHORITY_TOP: u32 = 14;
/// Cards drawn in one column; what is beyond is told as a number. Twelve by twelve lines a step are still a drawing.
const ROWS_MAX: usize = 12;

/// The columns of a packet's way, with the left edge of their cards and their heading.
const WAY: [(Column, u32, &str); 5] = [
    (Column::Gateways, 134, "gateways"),
    (Column::L1, 352, "layer 1"),
    (Column::L2, 546, "layer 2"),
    (Column::L3, 740, "layer 3"),
    (Column::Stores, 958, "stores"),
];

/// A party's card.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Card {
    /// Left edge.
    pub(crate) x: u32,
    /// Top edge.
    pub(crate) y: u32,
    /// The party's name.
    pub(crate) name: String,
    /// One line about it.
    pub(crate) line: String,
    /// The whole story, shown when one points at the card and read by screen readers.
    pub(crate) title: String,
    /// How it is doing.
    pub(crate) state: State,
}

impl Card {
    /// The class that gives the card its colour.
    pub(crate) fn class(&self) -> &'static str {
        class(self.state)
    }
}

/// The class of a state in the style sheet.
pub(crate) fn class(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Waiting => "waiting",
        State::Down => "down",
        State::Listed => "listed",
    }
}

/// A heading, or the number of cards that a column does not show.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Label {
    /// Middle of the text.
    pub(crate) x: u32,
    /// Its base line.
    pub(crate) y: u32,
    /// What it says.
    pub(crate) text: String,
}

/// A step that packets may take.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    /// The `d` of an SVG path.
    pub(crate) path: String,
    /// Whether both ends are up.
    pub(crate) open: bool,
}

/// The whole drawing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Drawing {
    /// Its height.
    pub(crate) height: u32,
    /// Steps between columns.
    pub(crate) lines: Vec<Line>,
    /// Parties of the columns and authorities.
    pub(crate) cards: Vec<Card>,
    /// Headings and overflow numbers.
    pub(crate) labels: Vec<Label>,
    /// Left and right edge of the box around the mix layers, and its height.
    pub(crate) mixes: (u32, u32, u32),
    /// From the authorities down to the box: middle, top, bottom; `None` without authorities.
    pub(crate) stem: Option<(u32, u32, u32)>,
    /// The same in words, for those who do not see it.
    pub(crate) words: String,
}

/// Places the parties of a view, which come sorted by column and name.
pub(crate) fn draw(parties: &[Party]) -> Drawing {
    let of = |column: Column| parties.iter().filter(move |party| party.column == column);
    let tallest = WAY.iter().map(|(column, ..)| of(*column).count().min(ROWS_MAX)).max().unwrap_or(0).max(1);
    let rows_height = rows_height(tallest);
    let mut drawing = Drawing {
        height: TOP + rows_height + 34,
        lines: Vec::new(),
        cards: Vec::new(),
        labels: Vec::new(),
        mixes: (WAY[1].1 - 22, WAY[3].1 + CARD_WIDTH + 22, rows_height + 68),
        stem: None,
        words: String::new(),
    };
    let columns: Vec<Vec<Card>> = WAY
        .iter()
        .map(|(column, x, heading)| {
            let all: Vec<&Party> = of(*column).collect();
            let shown = all.len().min(ROWS_MAX);
            let first_y = TOP + (rows_height - rows_height_or_zero(shown)) / 2;
            let heading_text = if all.is_empty() { format!("no {heading}") } else { (*heading).to_owned() };
            drawing.labels.push(Label { x: x + CARD_WIDTH / 2, y: TOP - 20, text: heading_text });
            if all.len() > shown {
                let y = first_y + rows_height_or_zero(shown) + 20;
                drawing.labels.push(Label {
                    x: x + CARD_WIDTH / 2,
                    y,
                    text: format!("and {} more", all.len() - shown),
                });
            }
            all.iter().take(shown).zip(0_u32..).map(|(party, row)| card(party, *x, first_y + row * ROW)).collect()
        })
        .collect();
    for pair in columns.windows(2) {
        if let [from, to] = pair {
            drawing.lines.extend(from.iter().flat_map(|a| to.iter().map(move |b| line(a, b))));
        }
    }
    drawing.cards = columns.into_iter().flatten().collect();
    drawing.cards.extend(authorities(&of(Column::Authorities).collect::<Vec<_>>()));
    if of(Column::Authorities).count() > 0 {
        drawing.stem = Some((WAY[2].1 + CARD_WIDTH / 2, AUTHORITY_TOP + CARD_HEIGHT, TOP - 44));
    }
    drawing.words = words(parties);
    let standby = of(Column::Standby).count();
    if standby > 0 {
        let text = format!("{standby} on standby or not placed yet");
        drawing.labels.push(Label { x: WAY[2].1 + CARD_WIDTH / 2, y: drawing.height - 8, text });
    }
    drawing
}

/// Height of so many cards one below the other.
fn rows_height(rows: usize) -> u32 {
    // at most ROWS_MAX rows come here
    u32::try_from(rows).unwrap_or(1).saturating_sub(1) * ROW + CARD_HEIGHT
}

fn rows_height_or_zero(rows: usize) -> u32 {
    if rows == 0 { 0 } else { rows_height(rows) }
}

/// The authorities in one row at the top, in the middle.
fn authorities(parties: &[&Party]) -> Vec<Card> {
    let shown = parties.iter().take(7);
    let pitch = CARD_WIDTH + 12;
    let width = u32::try_from(shown.len()).unwrap_or(0) * pitch - if shown.len() > 0 { 12 } else { 0 };
    let middle = WAY[2].1 + CARD_WIDTH / 2;
    let left = middle.saturating_sub(width / 2);
    shown.zip(0_u32..).map(|(party, n)| card(party, left + n * pitch, AUTHORITY_TOP)).collect()
}

fn card(party: &Party, x: u32, y: u32) -> Card {
    Card { x, y, name: party.name.clone(), line: card_line(party), title: card_title(party), state: party.state }
}

/// The one line under the name: trouble first, else the figure that says most about the role.
fn card_line(party: &Party) -> String {
    if party.state == State::Waiting || party.state == State::Down {
        return party.state.word().to_owned();
    }
    match (party.column, party.boxes, party.packets_received) {
        (Column::Authorities, ..) => "certifies".to_owned(),
        (Column::Stores, Some(boxes), _) => format!("{} boxes", brief(boxes)),
        // a gateway tells its figures an epoch late, so at first it has none
        (Column::Gateways, _, Some(0)) => party.state.word().to_owned(),
        (_, _, Some(packets)) => format!("{} packets", brief(packets)),
        _ => party.state.word().to_owned(),
    }
}

fn card_title(party: &Party) -> String {
    let mut title = format!("{}: {}", party.name, party.state.word());
    if !party.reason.is_empty() {
        title.push_str(&format!(" ({})", party.reason));
    }
    if let Some(packets) = party.packets_received {
        title.push_str(&format!(", {} packets received", count(packets)));
    }
    if let Some(queue) = party.queue {
        title.push_str(&format!(", {queue} waiting"));
    }
    let dropped: u64 = party.dropped.iter().map(|(_, packets)| packets).sum();
    if dropped > 0 {
        title.push_str(&format!(", {} dropped", count(dropped)));
    }
    title
}

/// A curve from the right edge of one card to the left edge of another.
fn line(from: &Card, to: &Card) -> Line {
    let (x1, y1) = (from.x + CARD_WIDTH, from.y + CARD_HEIGHT / 2);
    let (x2, y2) = (to.x, to.y + CARD_HEIGHT / 2);
    let middle = (x1 + x2) / 2;
    let up = |state: State| matches!(state, State::Ready | State::Listed);
    Line { path: format!("M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"), open: up(from.state) && up(to.state) }
}

/// The drawing in one sentence.
fn words(parties: &[Party]) -> String {
    let groups = [
        (Column::Authorities, "authorities"),
        (Column::Gateways, "gateways"),
        (Column::L1, "mixes in layer 1"),
        (Column::L2, "mixes in layer 2"),
        (Column::L3, "mixes in layer 3"),
        (Column::Stores, "stores"),
    ];
    let of = |(column, name): (Column, &str)| {
        let all = parties.iter().filter(|party| party.column == column).count();
        let up = |party: &&Party| party.column == column && matches!(party.state, State::Ready | State::Listed);
        format!("{name}: {} of {all} up", parties.iter().filter(up).count())
    };
    groups.map(of).join("; ")
}

/// A number short enough for a card: from a million on in millions.
fn brief(number: u64) -> String {
    if number < 1_000_000 { count(number) } else { format!("{} M", count(number / 1_000_000)) }
}

/// A number with its thousands apart: `12 345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parties(column: Column, number: usize, state: State) -> Vec<Party> {
        (0..number)
            .map(|n| Party {
                name: format!("{column:?}-{n:03}"),
                identity: String::new(),
                column,
                state,
                reason: String::new(),
                in_consensus: true,
                packets_received: Some(12_345),
                dropped: Vec::new(),
                queue: None,
                loops: None,
                boxes: None,
                probed: None,
            })
            .collect()
    }

    #[test]
    fn every_allowed_step_is_a_line() {
        let columns = [(Column::Gateways, 2), (Column::L1, 2), (Column::L2, 2), (Column::L3, 2), (Column::Stores, 3)];
        let all: Vec<Party> = columns.into_iter().flat_map(|(column, n)| parties(column, n, State::Ready)).collect();
        let drawing = draw(&all);
        assert_eq!(drawing.lines.len(), 4 + 4 + 4 + 6);
        assert_eq!(drawing.cards.len(), 11);
        assert!(drawing.lines.iter().all(|line| line.open));
        for card in &drawing.cards {
            assert!(card.x + CARD_WIDTH <= WIDTH && card.y + CARD_HEIGHT <= drawing.height, "{card:?} inside");
        }
    }

    #[test]
    fn cards_never_overlap() {
        let mut all = parties(Column::Gateways, 30, State::Ready);
        all.extend(parties(Column::L2, 5, State::Ready));
        all.extend(parties(Column::Authorities, 7, State::Ready));
        let cards = draw(&all).cards;
        for (n, a) in cards.iter().enumerate() {
            for b in cards.iter().skip(n + 1) {
                assert!(a.x.abs_diff(b.x) >= CARD_WIDTH || a.y.abs_diff(b.y) >= CARD_HEIGHT, "{a:?} over {b:?}");
            }
        }
    }

    #[test]
    fn a_crowd_is_told_as_a_number() {
        let drawing = draw(&parties(Column::Stores, 100, State::Ready));
        assert_eq!(drawing.cards.len(), ROWS_MAX);
        assert!(drawing.labels.iter().any(|label| label.text == "and 88 more"));
    }

    #[test]
    fn an_empty_network_is_drawn_too() {
        let drawing = draw(&[]);
        assert_eq!((drawing.cards.len(), drawing.lines.len()), (0, 0));
        assert!(drawing.words.contains("stores: 0 of 0 up"));
    }

    #[test]
    fn a_line_to_a_dead_node_is_not_open() {
        let mut all = parties(Column::L1, 1, State::Ready);
        all.extend(parties(Column::L2, 1, State::Down));
        assert!(!draw(&all).lines[0].open);
        assert_eq!(draw(&all).cards[1].line, "no answer");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(123), "123");
        assert_eq!(brief(999_999), "999\u{202f}999");
        assert_eq!(brief(48_123_456), "48 M");
    }
}

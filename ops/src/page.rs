//! The status page as HTML: text and drawing from a [`View`], nothing fetched from anywhere else.

use std::time::Duration;

use askama::Template;
use shoal_protocol::duration::short;

use crate::{
    chart::{self, Loops, RoundTrips},
    draw::{self, CARD_HEIGHT, CARD_WIDTH, Drawing, count},
    findings::{Finding, Level, percent},
    view::{Column, Party, State, View},
};

/// A figure at the top of the page.
#[derive(Debug, Clone, PartialEq)]
struct Tile {
    name: &'static str,
    value: String,
    note: String,
    /// A bar below the figure, filled to so many hundredths.
    filled: Option<u32>,
}

/// A row of the table of parties.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: String,
    place: &'static str,
    class: &'static str,
    state: &'static str,
    reason: String,
    identity: String,
    packets: String,
    waiting: String,
    dropped: String,
    dropped_title: String,
    loops: String,
    probed: String,
    boxes: String,
}

/// A fact about the consensus.
#[derive(Debug, Clone, PartialEq)]
struct Fact {
    name: &'static str,
    value: String,
    mono: bool,
}

#[derive(Template)]
#[template(path = "status.html", blocks = ["live"])]
struct Page<'a> {
    nonce: &'a str,
    refresh_s: u64,
    network: &'a str,
    fingerprint: &'a str,
    verdict_class: &'static str,
    verdict: &'static str,
    made_at: String,
    tiles: Vec<Tile>,
    drawing: Drawing,
    card_width: u32,
    card_height: u32,
    width: u32,
    chart_width: f64,
    chart_height: f64,
    since: String,
    round_trips: RoundTrips,
    loops: Loops,
    findings: Vec<(&'static str, &'a Finding)>,
    facts: Vec<Fact>,
    rows: Vec<Row>,
    version: &'static str,
}

/// Renders the page. `nonce` allows this page's own style and script and nothing else; `refresh` is the time between two
/// looks.
pub(crate) fn render(view: &View, nonce: &str, refresh: Duration) -> Result<String, askama::Error> {
    page(view, nonce, refresh).render()
}

/// Renders the part of the page that changes, for the script that puts it in the old one's place.
pub(crate) fn render_live(view: &View) -> Result<String, askama::Error> {
    page(view, "", Duration::ZERO).as_live().render()
}

fn page<'a>(view: &'a View, nonce: &'a str, refresh: Duration) -> Page<'a> {
    let bucket = Duration::from_millis(view.bucket_ms);
    let worst = view.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good);
    let (verdict_class, verdict) = match worst {
        Level::Good => ("good", "All is well"),
        Level::Notice => ("notice", "Worth a look"),
        Level::Alarm => ("alarm", "Something is wrong"),
    };
    Page {
        nonce,
        refresh_s: refresh.as_secs().max(1),
        network: &view.network,
        fingerprint: &view.fingerprint,
        verdict_class,
        verdict,
        made_at: clock(view.now_ms),
        tiles: tiles(view),
        drawing: draw::draw(&view.parties),
        card_width: CARD_WIDTH,
        card_height: CARD_HEIGHT,
        width: draw::WIDTH,
        chart_width: chart::WIDTH,
        chart_height: chart::HEIGHT,
        since: chart::since(bucket),
        round_trips: chart::round_trips(&view.series),
        loops: chart::loops(&view.series),
        findings: view.findings.iter().map(|finding| (level_class(finding.level), finding)).collect(),
        facts: facts(view),
        rows: view.parties.iter().map(row).collect(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

fn level_class(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Notice => "notice",
        Level::Alarm => "alarm",
    }
}

fn tiles(view: &View) -> Vec<Tile> {
    let mut tiles = Vec::new();
    match &view.certificate {
        Some(certificate) => {
            let into_ms = view.now_ms.saturating_sub(certificate.valid_from_ms);
            let left = Duration::from_millis(view.epoch_ms.saturating_sub(into_ms));
            let filled = into_ms.min(view.epoch_ms) * 100 / view.epoch_ms.max(1);
            tiles.push(Tile {
                name: "Epoch",
                value: certificate.epoch.to_string(),
                note: due(view, left),
                filled: u32::try_from(filled).ok(),
            });
            tiles.push(Tile {
                name: "Certificate",
                value: format!("{} of {}", certificate.signatures, certificate.authorities),
                note: format!("signed; {} needed", certificate.needed),
                filled: None,
            });
        }
        None => tiles.push(Tile {
            name: "Epoch",
            value: "–".into(),
            note: "no certified document yet".into(),
            filled: None,
        }),
    }
    let nodes = view.parties.iter().filter(|party| party.column != Column::Authorities);
    let up = nodes.clone().filter(|party| matches!(party.state, State::Ready | State::Listed)).count();
    let in_consensus = nodes.clone().filter(|party| party.in_consensus).count();
    tiles.push(Tile {
        name: "Nodes up",
        value: format!("{up} of {}", nodes.count()),
        note: format!("{in_consensus} in the consensus"),
        filled: None,
    });
    tiles.push(Tile {
        name: "Loops back",
        value: view.loops.recent_survival.map_or("–".into(), percent),
        note: match view.probing.running {
            true => format!("{} sent, {} lost", count(view.loops.sent), count(view.loops.lost)),
            false => "no prober runs".into(),
        },
        filled: None,
    });
    tiles.push(match view.loops.round_trip_ms {
        Some(times) => Tile {
            name: "Median round trip",
            value: short(Duration::from_millis(times.p50.into())),
            note: format!(
                "p90 {}, p99 {}",
                short(Duration::from_millis(times.p90.into())),
                short(Duration::from_millis(times.p99.into()))
            ),
            filled: None,
        },
        None => {
            Tile { name: "Median round trip", value: "–".into(), note: "no loop is back yet".into(), filled: None }
        }
    });
    if let (Some(bits), Some(people)) = (view.probing.anonymity_bits, view.probing.hiding_among) {
        tiles.push(Tile {
            name: "Hiding among",
            value: if bits > 0.0 { format!("≤ {}", count(people)) } else { "–".to_owned() },
            note: if bits > 0.0 {
                format!("packets; at most {bits:.1} bits, no traffic figures are published yet")
            } else {
                "not measurable: too little traffic, and no figures are published yet".to_owned()
            },
            filled: None,
        });
    }
    tiles
}

/// When the next document comes, or why it does not.
fn due(view: &View, left: Duration) -> String {
    match &view.certificate {
        Some(certificate) if view.now_ms > certificate.valid_until_ms => {
            let over = Duration::from_millis(view.now_ms - certificate.valid_until_ms);
            format!("expired {} ago; no newer one came", short(over))
        }
        Some(certificate) if left.is_zero() => {
            let begun = certificate.valid_from_ms.saturating_add(view.epoch_ms);
            format!("the next is late by {}", short(Duration::from_millis(view.now_ms.saturating_sub(begun))))
        }
        Some(_) | None => format!("next in {}", short(left)),
    }
}

fn facts(view: &View) -> Vec<Fact> {
    let Some(certificate) = &view.certificate else { return Vec::new() };
    let text = |name, value: String| Fact { name, value, mono: false };
    let hash = |name, value: &String| Fact { name, value: value.chars().take(16).collect(), mono: true };
    vec![
        text("Height in the chain", count(certificate.height)),
        hash("Document", &certificate.hash),
        hash("Its predecessor", &certificate.previous),
        text("In force since", clock(certificate.valid_from_ms)),
        text("Good until", clock(certificate.valid_until_ms)),
        text("Store generation", certificate.generation.map_or("none yet".into(), |number| number.to_string())),
    ]
}

fn row(party: &Party) -> Row {
    let number = |value: Option<u64>| value.map_or(String::new(), count);
    let dropped: u64 = party.dropped.iter().map(|(_, packets)| packets).sum();
    let reasons: Vec<String> = party.dropped.iter().map(|(reason, packets)| format!("{reason}: {packets}")).collect();
    Row {
        name: party.name.clone(),
        place: match party.column {
            Column::Gateways => "gateway",
            Column::L1 => "layer 1",
            Column::L2 => "layer 2",
            Column::L3 => "layer 3",
            Column::Stores => "store",
            Column::Standby => "standby",
            Column::Authorities => "authority",
        },
        class: draw::class(party.state),
        state: party.state.word(),
        reason: party.reason.clone(),
        identity: party.identity.chars().take(16).collect(),
        packets: number(party.packets_received),
        waiting: number(party.queue),
        dropped: party.packets_received.map_or(String::new(), |_| count(dropped)),
        dropped_title: reasons.join(", "),
        loops: party.loops.map_or(String::new(), |(sent, back)| format!("{} / {}", count(back), count(sent))),
        probed: party.probed.map_or(String::new(), |passed| {
            format!("{} / {}", count(passed.returned), count(passed.returned + passed.lost))
        }),
        boxes: number(party.boxes),
    }
}

/// The time of day in UTC, to the second.
fn clock(ms: u64) -> String {
    let second = ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{Percentiles, Point, Summary},
        view::{Certificate, Probing},
    };

    fn sample() -> View {
        let party = |name: &str, column, state| Party {
            name: name.into(),
            identity: "ab".repeat(32),
            column,
            state,
            reason: String::new(),
            in_consensus: true,
            packets_received: Some(1_234),
            dropped: vec![("replay".into(), 3)],
            queue: Some(2),
            loops: Some((10, 9)),
            boxes: None,
            probed: None,
        };
        let times = Percentiles { p10: 80, p50: 120, p90: 300, p99: 420 };
        View {
            network: "<script>alert(1)</script>".into(),
            fingerprint: "calm \"river\" & stone".into(),
            now_ms: 1_700_000_005_000,
            epoch_ms: 20_000,
            certificate: Some(Certificate {
                epoch: 7,
                height: 8,
                hash: "cd".repeat(32),
                previous: "ef".repeat(32),
                signatures: 1,
                needed: 1,
                authorities: 1,
                valid_from_ms: 1_700_000_000_000,
                valid_until_ms: 1_700_000_060_000,
                generation: Some(1),
            }),
            parties: vec![
                party("gateway-1", Column::Gateways, State::Ready),
                party("mix-<b>", Column::L1, State::Down),
                party("authority-1", Column::Authorities, State::Ready),
            ],
            loops: Summary {
                sent: 10,
                returned: 9,
                lost: 1,
                survival: Some(0.9),
                recent_survival: Some(0.9),
                round_trip_ms: Some(times),
            },
            bucket_ms: 5_000,
            series: vec![Point { start_ms: 0, sent: 5, returned: 4, lost: 1, round_trip_ms: Some(times) }],
            probing: Probing {
                running: true,
                connected: true,
                anonymity_bits: Some(2.5),
                hiding_among: Some(5),
                trouble: None,
            },
            findings: vec![Finding { level: Level::Alarm, text: "No answer from mix-<b>.".into() }],
        }
    }

    fn rendered(view: &View) -> String {
        render(view, "n0nce", Duration::from_secs(2)).expect("the template renders")
    }

    #[test]
    fn the_page_holds_the_drawing() {
        let html = rendered(&sample());
        assert!(html.starts_with("<!doctype html>"));
        assert!(html.contains("<svg") && html.contains("gateway-1") && html.contains("layer 2"));
        assert!(html.contains("90.0 %") && html.contains("120ms") && html.contains("next in 15.0s"));
        assert!(html.contains("Something is wrong"));
    }

    #[test]
    fn what_came_from_outside_is_escaped() {
        let html = rendered(&sample());
        assert!(!html.contains("<script>alert"), "a network's name is not markup");
        assert!(!html.contains("mix-<b>"), "a node's name is not markup");
        assert!(!html.contains("\"river\""), "quotes do not end an attribute");
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        let html = rendered(&sample());
        let foreign = html.split("http").skip(1).any(|rest| rest.starts_with("://") || rest.starts_with("s://"));
        assert!(!foreign, "no address of another host in the page");
        assert!(!html.contains(" style="), "the content security policy refuses style attributes");
        assert!(!html.contains(" onload") && !html.contains(" onclick"));
        assert_eq!(html.matches("<script").count(), html.matches("<script nonce=\"n0nce\"").count());
        assert_eq!(html.matches("<style").count(), html.matches("<style nonce=\"n0nce\"").count());
    }

    #[test]
    fn the_changing_part_is_a_part_of_the_page() {
        let live = render_live(&sample()).expect("the template renders");
        assert!(rendered(&sample()).contains(&live));
        assert!(live.contains("<svg") && !live.contains("<script") && !live.contains("<style"));
    }

    #[test]
    fn an_empty_view_renders() {
        let view = View {
            certificate: None,
            parties: Vec::new(),
            loops: Summary {
                sent: 0,
                returned: 0,
                lost: 0,
                survival: None,
                recent_survival: None,
                round_trip_ms: None,
            },
            series: Vec::new(),
            probing: Probing::default(),
            findings: Vec::new(),
            ..sample()
        };
        let html = rendered(&view);
        assert!(html.contains("no certified document yet") && html.contains("no prober runs"));
    }

    #[test]
    fn a_document_that_is_late_or_over_is_told_in_words() {
        let mut view = sample();
        let certificate = view.certificate.as_ref().expect("the sample has one");
        let (from_ms, until_ms) = (certificate.valid_from_ms, certificate.valid_until_ms);
        view.now_ms = from_ms + view.epoch_ms + 3_000;
        assert!(rendered(&view).contains("the next is late by 3.0s"));
        view.now_ms = until_ms + 120_000;
        let html = rendered(&view);
        assert!(html.contains("expired 2m ago") && !html.contains("next in"), "no time to wait for");
        view.probing.anonymity_bits = Some(0.0);
        assert!(rendered(&view).contains("not measurable"));
    }

    #[test]
    fn the_clock_is_utc() {
        assert_eq!(clock(1_700_000_000_000), "22:13:20 UTC");
        assert_eq!(clock(0), "00:00:00 UTC");
    }
}

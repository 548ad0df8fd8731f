//! Reads what a daemon's `/metrics` says: the Prometheus text format, as far as the status page needs it.

use std::collections::BTreeMap;

/// Most samples kept of one page. A daemon of Shoal has about 150; more than this is not one of ours.
const SAMPLES_MAX: usize = 4_096;

/// One sample: its labels in the order written, and its value.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

/// The samples of one `/metrics` page, by metric name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Samples {
    by_name: BTreeMap<String, Vec<Sample>>,
}

impl Samples {
    /// Reads a page. Lines that are not samples are skipped: a status page must not fail over a metric it does not show.
    pub(crate) fn parse(page: &str) -> Self {
        let mut samples = Self::default();
        for (name, sample) in page.lines().filter_map(parse_line).take(SAMPLES_MAX) {
            samples.by_name.entry(name).or_default().push(sample);
        }
        samples
    }

    /// The sum of all samples of a metric over its labels; `None` when the page does not have it.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        self.by_name.get(name).map(|samples| samples.iter().map(|sample| sample.value).sum())
    }

    /// The sum of those samples of a metric that carry this label with this value.
    #[cfg(test)]
    pub(crate) fn sum_where(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        let samples = self.by_name.get(name)?;
        let of_label = |sample: &&Sample| sample.labels.iter().any(|(key, text)| key == label && text == value);
        Some(samples.iter().filter(of_label).map(|sample| sample.value).sum())
    }

    /// The samples of a metric that are not zero, as (value of the label, value), in the order of the page.
    pub(crate) fn by_label(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        let Some(samples) = self.by_name.get(name) else { return Vec::new() };
        let pair = |sample: &Sample| {
            let (_, text) = sample.labels.iter().find(|(key, _)| key == label)?;
            (sample.value != 0.0).then(|| (text.clone(), sample.value))
        };
        samples.iter().filter_map(pair).collect()
    }
}

/// `name{label="value",…} 12.5 [timestamp]`.
fn parse_line(line: &str) -> Option<(String, Sample)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let name_len = line.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':')).count();
    let (name, rest) = line.split_at_checked(name_len)?;
    if name.is_empty() {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), Sample { labels, value }))
}

/// The labels up to the closing brace, and what follows it. Values may hold escaped quotes, backslashes and newlines.
fn parse_labels(text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => match characters.next()? {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                other => value.push(other),
            }
        }
        labels.push((key.trim().to_owned(), value));
        rest = characters.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP shoal_packets_dropped_total Packets dropped
# TYPE shoal_packets_dropped_total counter
shoal_packets_dropped_total{reason="replay"} 3
shoal_packets_dropped_total{reason="bad_mac"} 0
shoal_packets_dropped_total{reason="queue_full"} 4 1700000000000
shoal_packets_received_total 1.5e3
shoal_build_info{version="0.1.0",role="mix"} 1
odd{text="a \"quoted\" } brace, \\ and\nline"} 2
not a sample
{} 3
"#;

    #[test]
    fn counters_and_labels_are_read() {
        let samples = Samples::parse(PAGE);
        assert_eq!(samples.sum("shoal_packets_received_total"), Some(1_500.0));
        assert_eq!(samples.sum("shoal_packets_dropped_total"), Some(7.0));
        assert_eq!(samples.sum("absent"), None);
        assert_eq!(samples.sum_where("shoal_packets_dropped_total", "reason", "replay"), Some(3.0));
        assert_eq!(
            samples.by_label("shoal_packets_dropped_total", "reason"),
            [("replay".to_owned(), 3.0), ("queue_full".to_owned(), 4.0)]
        );
        assert_eq!(samples.by_label("odd", "text"), [("a \"quoted\" } brace, \\ and\nline".to_owned(), 2.0)]);
    }

    #[test]
    fn a_page_of_noise_is_empty_or_bounded() {
        assert_eq!(Samples::parse("<html>\u{0}\n}{\"=\n a{b=\"\\"), Samples::default());
        let many: String = (0..10_000).map(|n| format!("m{{n=\"{n}\"}} 1\n")).collect();
        assert_eq!(Samples::parse(&many).sum("m"), Some(SAMPLES_MAX as f64));
    }
}

//! Row 1: a replay log that is gone or damaged takes its key with it: the node comes back with fresh keys, and what was
//! built for the old ones is refused.

use crate::beside;
use crate::replay::{made, send};
use shoal_protocol::types::{Layer, Role};
use shoal_tests::paper::{Node, Paper, Record};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PACKETS: u64 = 100;
/// Magic, which key the log belongs to, how many tags it has, what they hash to.
const HEADER: usize = 80;
const TAG: usize = 16;

/// The replay logs of a node.
fn logs(node: &Node) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(node.runtime_dir()).expect("listed");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "replay")).collect()
}

/// Lets a node see some packets, damages its logs while it is stopped, and sends the packets again.
async fn damaged(what: &str, damage: impl Fn(&Path)) {
    let paper = Paper::start(Some(Layer::L1));
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&paper, Role::Mix, dir.path());
    node.ready().await;
    let record = Record::of(&paper.mixes[1]);
    let packets = made(&paper, 0, PACKETS, Duration::ZERO).await;
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    send(&mut frames, &packets).await;
    record.reaches(PACKETS).await;
    assert_eq!(record.total(), PACKETS);

    node.kill();
    logs(&node).iter().for_each(|path| damage(path));
    node.restart();
    node.wait("it is in the document", |status| status["in_consensus"] == true).await;
    let (_link, mut frames) = node.dial(&paper.gateway).await;
    send(&mut frames, &packets).await;
    let accounts = node.settled(PACKETS).await;
    eprintln!("row 1: log {what}: {:?}", accounts.dropped);
    assert_eq!((record.total(), record.twice()), (PACKETS, Vec::new()), "{what}");
    assert_eq!(accounts.of_reason("bad_mac"), PACKETS, "{what}: no old key: {:?}", accounts.dropped);
}

fn change(path: &Path, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("read");
    how(&mut bytes);
    std::fs::write(path, bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_a_log_that_is_gone_takes_its_key_with_it() {
    let _beside = beside().await;
    damaged("deleted", |path| std::fs::remove_file(path).expect("removed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_a_log_without_a_whole_header_takes_its_key_with_it() {
    let _beside = beside().await;
    damaged("emptied", |path| change(path, Vec::clear)).await;
    damaged("cut inside its header", |path| change(path, |bytes| bytes.truncate(HEADER - 1))).await;
    damaged("of another key", |path| change(path, |bytes| bytes[8] ^= 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_a_log_that_lacks_its_end_takes_its_key_with_it() {
    let _beside = beside().await;
    damaged("torn inside a tag", |path| change(path, |bytes| bytes.truncate(bytes.len() - TAG / 2))).await;
    damaged("cut behind a tag", |path| {
        change(path, |bytes| bytes.truncate(bytes.len().saturating_sub(10 * TAG).max(HEADER)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_01_a_log_with_a_damaged_tag_takes_its_key_with_it() {
    let _beside = beside().await;
    damaged("with a changed byte", |path| {
        change(path, |bytes| {
            if let Some(byte) = bytes.get_mut(HEADER + 3 * TAG) {
                *byte ^= 1;
            }
        });
    })
    .await;
}

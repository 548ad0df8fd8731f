//! The command beside a node that does not run.

use super::*;
use crate::engine::Written;
use crate::io::engine_conformance::{self, NOW, body, id, put};
use crate::testing::store_node;

struct Silent;

impl Tell for Silent {
    fn progress(&mut self, _: &Value) {}
}

fn to(folder: &str) -> MigrateOptions {
    MigrateOptions {
        to: Some(EngineKind::Redb),
        url: None,
        schema: None,
        password_file: None,
        ca_file: None,
        connections: None,
        store_dir: Some(folder.into()),
        cancel: false,
    }
}

fn open(dir: &Path) -> crate::engine::BoxedEngine {
    let Setup { config, identity, .. } = setup::load(dir).expect("a node");
    let identity = *identity.identity().as_bytes();
    store_engine::open(&config.store, dir, &identity, engine_conformance::LIMITS).expect("the place in node.toml opens")
}

fn write(dir: &Path, n: u64) {
    assert_eq!(open(dir).write(NOW, &[put(n, n)]).expect("works"), [Written::Stored]);
}

fn holds(dir: &Path, n: u64) -> bool {
    open(dir).get(&id(n)).expect("works") == Some(body(n))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_run_moves_there_and_back() {
    let folder = tempfile::tempdir().expect("a directory");
    let dir = store_node(folder.path());
    write(&dir, 1);
    for (goal, n) in [("other", 2), ("store", 3), ("other", 4)] {
        let ended = migrate(&dir, &to(goal), &mut Silent).await.expect("moves");
        assert_eq!(ended["migrated"], true, "{ended}");
        assert_eq!(setup::load_config(&dir).expect("reads").store.dir, Path::new(goal));
        assert_eq!(Note::read(&dir).expect("reads"), None);
        write(&dir, n);
        assert!((1..=n).all(|n| holds(&dir, n)));
    }
    let same = migrate(&dir, &to("other"), &mut Silent).await.map(drop).expect_err("it is there");
    assert_eq!(same.kind, Kind::Usage);
    let cancel = MigrateOptions { cancel: true, ..to("x") };
    let nothing = migrate(&dir, &cancel, &mut Silent).await.map(drop).expect_err("nothing to call off");
    assert!(nothing.message.contains("not moving"), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_at_the_change_is_ended_and_not_called_off() {
    let folder = tempfile::tempdir().expect("a directory");
    let dir = store_node(folder.path());
    write(&dir, 1);
    // node.toml cannot be replaced: as if the process had ended just before it was
    std::fs::create_dir(dir.join("node.new")).expect("made");
    let failure = migrate(&dir, &to("other"), &mut Silent).await.map(drop).expect_err("cannot be written down");
    assert!(failure.next.contains("run this command again"), "{failure:?}");
    std::fs::remove_dir(dir.join("node.new")).expect("removed");
    let cancel = MigrateOptions { cancel: true, ..to("other") };
    let late = migrate(&dir, &cancel, &mut Silent).await.map(drop).expect_err("too late");
    assert!(late.message.contains("too late"), "{late}");
    // somewhere else first is not possible: what is there is not the store
    let elsewhere = migrate(&dir, &to("third"), &mut Silent).await.map(drop).expect_err("refused");
    assert!(elsewhere.message.contains("left this place"), "{elsewhere}");
    migrate(&dir, &to("other"), &mut Silent).await.expect("goes on");
    assert!(holds(&dir, 1));
    write(&dir, 2);
}

use super::*;
use crate::engine::Written;
use crate::io::engine_conformance::{LIMITS, NOW, body, id, put};
use crate::io::engine_seat::Seat;
use crate::io::mover::Stand;
use crate::io::setup::{self, Setup};
use crate::testing::store_node;

/// A store's directory; what runs in it is made anew with each start.
struct Node {
    folder: tempfile::TempDir,
    dir: PathBuf,
}

/// A node that runs, as far as its store goes.
struct Running {
    moves: StoreMoves,
    seat: Seat,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let dir = store_node(folder.path());
        Self { folder, dir }
    }

    fn setup(&self) -> (StoreConfig, [u8; 32]) {
        let Setup { config, identity, .. } = setup::load(&self.dir).expect("a node");
        (config.store, *identity.identity().as_bytes())
    }

    fn open(&self, store: &StoreConfig) -> Result<BoxedEngine, EngineError> {
        store_engine::open(store, &self.dir, &self.setup().1, LIMITS)
    }

    /// As `assemble` and the store's task do it.
    fn start(&self) -> Running {
        let (store, identity) = self.setup();
        let mover = Arc::new(Mover::default());
        let moves = StoreMoves::new(self.dir.clone(), identity, store.clone(), Arc::clone(&mover));
        moves.resume().expect("starts");
        let open = if mover.is_moving() { store_engine::open_marked } else { store_engine::open };
        let engine = open(&store, &self.dir, &identity, LIMITS).expect("opens");
        Running { moves, seat: Seat::new(engine, mover) }
    }
}

impl Running {
    fn write(&mut self, n: u64) {
        assert_eq!(self.seat.write(NOW, &[put(n, n)]).expect("works"), [Written::Stored]);
    }

    fn stands(&self) -> Stand {
        self.moves.mover().progress().state
    }

    fn move_until(&mut self, stand: Stand) {
        self.seat.tend(NOW, LIMITS).expect("works");
        for _ in 0..100 {
            if self.stands() == stand {
                return;
            }
            self.seat.step(NOW);
        }
        panic!("{stand:?} is not reached: {:?}", self.moves.mover().progress());
    }
}

fn to(store: &StoreConfig, folder: &str) -> StoreConfig {
    StoreConfig { dir: folder.into(), ..store.clone() }
}

fn refusal(opened: Result<BoxedEngine, EngineError>) -> String {
    match opened.map(|_| ()) {
        Err(EngineError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_older_node_toml_does_not_open_the_place_that_was_left_and_the_way_back_is_open() {
    let node = Node::new();
    let before = node.setup().0;
    let after = to(&before, "other");
    let mut running = node.start();
    running.write(1);
    running.moves.begin(after.clone()).expect("begins");
    running.move_until(Stand::Done);
    running.write(2);
    assert_eq!((node.setup().0, running.moves.now()), (after.clone(), after.clone()));
    assert_eq!(Note::read(&node.dir).expect("reads"), None);
    drop(running);
    let text = refusal(node.open(&before));
    assert!(text.contains("left this place") && text.contains("redb, folder") && text.contains("other"), "{text}");
    assert_eq!(node.open(&after).expect("opens").get(&id(2)).expect("works"), Some(body(2)));

    let mut running = node.start();
    running.moves.begin(before.clone()).expect("begins");
    running.move_until(Stand::Done);
    running.write(3);
    drop(running);
    let mut engine = node.open(&before).expect("opens");
    assert!((1..=3).all(|n| engine.get(&id(n)).expect("works") == Some(body(n))));
    assert!(refusal(node.open(&after)).contains("left this place"));
}

#[test]
fn a_node_toml_that_cannot_be_written_loses_nothing_and_the_next_start_writes_it() {
    let node = Node::new();
    let before = node.setup().0;
    let after = to(&before, "other");
    let mut running = node.start();
    running.write(1);
    running.moves.begin(after.clone()).expect("begins");
    // in the way of the file that takes the place of node.toml
    let obstacle = node.dir.join("node.new");
    std::fs::create_dir(&obstacle).expect("made");
    running.move_until(Stand::Waiting);
    running.write(2);
    assert_eq!((node.setup().0, running.moves.now()), (before.clone(), after.clone()));
    // killed: node.toml names the old place still, and nothing but the marks and the note say where the store is
    drop(running);
    refusal(node.open(&before));
    std::fs::remove_dir(&obstacle).expect("removed");
    let mut running = node.start();
    assert!(running.seat.write(NOW, &[put(9, 9)]).is_err(), "not into the place that was left");
    // what is over is erased again when it is known where the store is
    let _ = running.seat.tend(NOW, LIMITS);
    running.seat.step(NOW);
    assert_eq!(running.stands(), Stand::Done);
    running.write(3);
    drop(running);
    assert_eq!(node.setup().0, after);
    assert_eq!(Note::read(&node.dir).expect("reads"), None);
    let mut engine = node.open(&after).expect("opens");
    assert!((1..=3).all(|n| engine.get(&id(n)).expect("works") == Some(body(n))));
}

#[test]
fn what_the_file_says_decides_when_writing_it_failed() {
    let node = Node::new();
    let after = to(&node.setup().0, "other");
    std::fs::create_dir(node.dir.join("node.new")).expect("made");
    assert!(record(&node.dir, &after).is_err());
    // written by an attempt that was reported as failed
    std::fs::remove_dir(node.dir.join("node.new")).expect("removed");
    assert!(record(&node.dir, &after).expect("written"));
    std::fs::create_dir(node.dir.join("node.new")).expect("made");
    assert!(!record(&node.dir, &after).expect("it says so"), "but is perhaps not on the disk: the note is kept");
}

#[test]
fn a_move_that_failed_or_cannot_go_on_does_not_come_back_and_keeps_nobody_from_starting() {
    let node = Node::new();
    let before = node.setup().0;
    let foreign = to(&before, "foreign");
    node.open(&foreign).expect("opens").write(NOW, &[put(7, 7)]).expect("works");
    let mut running = node.start();
    running.write(1);
    running.moves.begin(foreign).expect("begins");
    running.move_until(Stand::Failed);
    assert_eq!(Note::read(&node.dir).expect("reads"), None);
    drop(running);
    // a place that cannot be opened, noted by a process that was killed
    std::fs::write(node.folder.path().join("node/file"), b"no folder").expect("written");
    let note = Note { id: MoveId::draw(&mut generator()), store: to(&before, "file") };
    note.write(&node.dir).expect("written");
    let mut running = node.start();
    assert_eq!(running.stands(), Stand::Failed);
    assert_eq!(Note::read(&node.dir).expect("reads"), None);
    running.write(2);
    drop(running);
    // a note that nobody understands
    std::fs::write(node.dir.join("store-move.toml"), b"engine = \"redb\"").expect("written");
    let mut running = node.start();
    running.write(3);
    running.moves.begin(to(&before, "other")).expect("another move may begin");
    running.move_until(Stand::Done);
    assert_eq!(Note::read(&node.dir).expect("reads"), None);
}

#[test]
fn a_store_that_has_left_does_not_serve_because_its_new_place_does_not_open() {
    let node = Node::new();
    let (before, identity) = node.setup();
    let note = Note { id: MoveId::draw(&mut generator()), store: to(&before, "file") };
    node.open(&before)
        .expect("opens")
        .set_mark(Some(&crate::engine_mark::Mark::Left { id: note.id.clone(), to: "there".to_owned(), at_ms: 5 }))
        .expect("works");
    std::fs::write(node.dir.join("file"), b"no folder").expect("written");
    note.write(&node.dir).expect("written");
    let moves = StoreMoves::new(node.dir.clone(), identity, before, Arc::default());
    let error = format!("{:#}", moves.resume().expect_err("refused"));
    assert!(error.contains("the store has moved") && error.contains("file"), "{error}");
    assert_eq!(Note::read(&node.dir).expect("reads"), Some(note));
}

#[test]
fn calling_off_says_whether_it_came_too_late() {
    let node = Node::new();
    let before = node.setup().0;
    let mut running = node.start();
    running.write(1);
    assert!(running.moves.cancel().expect_err("nothing").to_string().contains("not moving"));
    running.moves.begin(to(&before, "one")).expect("begins");
    assert!(running.moves.begin(to(&before, "two")).is_err(), "one at a time");
    running.seat.tend(NOW, LIMITS).expect("works");
    running.seat.step(NOW);
    running.moves.cancel().expect("in time");
    assert_eq!(Note::read(&node.dir).expect("reads"), None);
    running.moves.begin(to(&before, "two")).expect("begins");
    running.seat.step(NOW);
    running.move_until(Stand::Done);
    assert_eq!(node.setup().0.dir, Path::new("two"));
    assert!(running.moves.cancel().expect_err("over").to_string().contains("too late"));
    assert_eq!(node.setup().0.dir, Path::new("two"));
    running.write(2);
    drop(running);
    assert_eq!(node.open(&to(&before, "two")).expect("opens").get(&id(2)).expect("works"), Some(body(2)));
    assert!(refusal(node.open(&to(&before, "one"))).contains("was making a copy"));
}

//! A store moves into a database, out of it, and by which ways it does not.

use super::*;

fn transfer(source: &mut dyn Engine, target: BoxedEngine) -> Result<BoxedEngine, String> {
    let mut transfer = Transfer::new(MoveId::draw(&mut generator()), "postgres, elsewhere".to_owned(), target);
    for _ in 0..1_000 {
        match transfer.step(source, NOW, || true) {
            Turn::On => {}
            Turn::Over => return Ok(transfer.into_target()),
            Turn::Failed(problem) => return Err(problem),
            other @ (Turn::Waiting(_) | Turn::CalledOff) => panic!("{other:?}"),
        }
    }
    panic!("does not end")
}

#[test]
fn a_schema_that_the_store_left_does_not_open_until_it_comes_back() {
    let server = server(&[]);
    let stored = |schema: &str| StoreConfig {
        engine: EngineKind::Postgres,
        postgres: Some(config(&server.url(), schema)),
        ..StoreConfig::default()
    };
    let opened = |schema: &str| store_engine::open(&stored(schema), Path::new("/"), &ME, LIMITS);
    let marked = |schema: &str| store_engine::open_marked(&stored(schema), Path::new("/"), &ME, LIMITS).expect("opens");
    let left = |schema: &str| match opened(schema).map(drop) {
        Err(EngineError::Refused(text)) => assert!(text.contains("left this place"), "{text}"),
        other => panic!("{other:?}"),
    };
    let mut first = opened("a").expect("opens");
    fill(&mut *first);
    let mut second = transfer(&mut *first, marked("b")).expect("moves");
    left("a");
    // time passes where the store is now, and nothing is erased where it was
    let over = second.buckets().expect("works")[0].end + 600_000;
    assert_eq!(second.expire(UnixMillis(over)).expect("works"), 1);
    second.write(UnixMillis(over), &[put(500, 5)]).expect("works");
    let mut back = transfer(&mut *second, marked("a")).expect("moves back");
    left("b");
    assert_eq!(contents(&mut *back, 100), contents(&mut *second, 100));
    drop(back);
    assert_eq!(opened("a").expect("opens").get(&id(500)).expect("works"), Some(body(5)));
}

#[test]
fn the_same_tables_by_another_way_are_no_goal_of_a_move() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &[put(1, 1)]).expect("works");
    let url = format!("postgres://shoal@127.0.0.1:{}/postgres", server.port());
    let other = PostgresEngine::new(&place(&url, "a"), ME, LIMITS).expect("opens");
    let problem = transfer(&mut engine, Box::new(other)).map(drop).expect_err("refused");
    assert!(problem.contains("under another name"), "{problem}");
    assert_eq!(engine.mark().expect("works"), None);
    assert_eq!(engine.get(&id(1)).expect("works"), Some(body(1)));
}

/// Moves a store and writes meanwhile.
fn move_to(source: &mut dyn Engine, target: BoxedEngine, salt: u64) -> BoxedEngine {
    let mut moving = Moving::new(target);
    for step in 0..1_000 {
        match moving.step(source) {
            Step::On => {}
            Step::Complete => return moving.into_target(),
            other @ (Step::Waiting(_) | Step::Failed(_)) => panic!("{other:?}"),
        }
        if step < 8 {
            let batch = [put(salt + step, step), append(2, salt + step), put(3, 3)];
            let written = source.write(NOW.plus(Duration::from_secs(250 + step)), &batch).expect("works");
            moving.mirror(source, &batch, &written);
        }
    }
    panic!("does not end")
}

#[test]
fn a_store_moves_into_a_database_and_out_again() {
    let server = Rc::new(server(&[]));
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let redb = |folder: &tempfile::TempDir| -> BoxedEngine {
        Box::new(RedbEngine::open(Box::new(Folder::new(folder.path().to_owned())), LIMITS).expect("opens"))
    };
    let mut first = redb(&one);
    fill(&mut *first);
    first.write(NOW, &(1_000..1_500).map(|n| put(n, n)).collect::<Vec<_>>()).expect("works");
    let mut database = move_to(&mut *first, InSchema::new(&server).open(LIMITS), 7_000);
    assert_eq!(contents(&mut *database, 100), contents(&mut *first, 100));
    let mut files = move_to(&mut *database, redb(&other), 8_000);
    assert_eq!(contents(&mut *files, 100), contents(&mut *database, 100));
    assert_eq!(files.totals().records, 120 + 500 + 32);
}

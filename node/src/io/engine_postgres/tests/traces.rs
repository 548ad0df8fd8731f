//! What is left of what is over, and in errors and logs.

use super::*;

/// Whether a file below `path` holds these bytes.
fn holds(path: &Path, wanted: &[u8]) -> bool {
    fs::read_dir(path).expect("reads").any(|entry| {
        let path = entry.expect("reads").path();
        if path.is_dir() {
            return holds(&path, wanted);
        }
        // a file may go between the listing and the reading
        fs::read(&path).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|window| window == wanted))
    })
}

#[test]
fn what_is_over_is_in_no_table_file_any_more() {
    let server = server(&[]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &(0..50).map(|n| put(n, n)).chain([append(7, 100)]).collect::<Vec<_>>()).expect("works");
    let base = server.data().join("base");
    let signs =
        [body(7).as_bytes()[100..164].to_vec(), id(7).as_bytes().to_vec(), body(100).as_bytes()[5..70].to_vec()];
    server.sql("CHECKPOINT").expect("written out");
    assert!(signs.iter().all(|sign| holds(&base, sign)), "what is looked for can be found");
    assert_eq!(engine.expire(NOW.plus(Duration::from_secs(3_600))).expect("works"), 1);
    server.sql("CHECKPOINT").expect("written out");
    assert!(!signs.iter().any(|sign| holds(&base, sign)));
    // what the runbook says of it is true: the log of the server still has it
    assert!(holds(&server.data().join("pg_wal"), &signs[0]));
    assert_eq!(BOX_SIZE, body(7).as_bytes().len());
}

#[test]
fn nothing_of_a_box_is_in_an_error_or_in_the_servers_log() {
    let server = server(&["log_min_duration_statement=-1", "log_error_verbosity=default"]);
    let mut engine = open(&server, "a");
    engine.write(NOW, &[put(1, 1), append(7, 1)]).expect("works");
    server.sql("ALTER TABLE a.buckets ADD CHECK (records < 3) NOT VALID").expect("altered");
    let error = engine.write(NOW, &[put(2, 2), put(3, 3)]).expect_err("refused").to_string();
    assert!(error.contains("23514"), "{error}");
    let log = fs::read_to_string(server.log()).expect("reads");
    assert!(log.contains("violates check"), "{log}");
    for n in [2, 3] {
        let name = hex::encode(id(n).as_bytes());
        assert!(!log.contains(&name) && !error.contains(&name));
        assert!(!log.contains(&hex::encode(&body(n).as_bytes()[..8])));
    }
    // nothing of the batch is there
    server.sql("ALTER TABLE a.buckets DROP CONSTRAINT buckets_records_check1").expect("altered");
    assert_eq!(until("it works again", || engine.get_all(&[id(1), id(2)])), [Some(body(1)), None]);
}

//! A process whose wall clock is wrong: libfaketime.

use std::path::{Path, PathBuf};

/// The library that shifts the clock: Debian's package libfaketime, variant for programs with threads.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("/usr/lib").filter_map(Result::ok);
    let found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("libfaketime is there: ops/test installs it (Debian package libfaketime)")
}

/// The environment of a process whose wall clock is off by what `file` says now, in seconds with a sign; it is looked at
/// once a second. The monotonic clock, on which sleeps and timeouts are counted, is left alone: nobody sets it.
///
/// # Panics
/// As [`library`].
#[must_use]
pub fn environment(file: &Path) -> Vec<(&'static str, String)> {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    vec![
        ("LD_PRELOAD", text(&library())),
        ("FAKETIME_TIMESTAMP_FILE", text(file)),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

//! A small file system in memory that a test mounts, fills and empties: a real disk that is really full. Needs root.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One mounted file system; unmounted when dropped.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one of this many KiB.
    ///
    /// # Panics
    /// When it cannot be mounted: root is needed.
    #[must_use]
    pub fn mount(kib: u32) -> Self {
        let disk = Self { folder: tempfile::tempdir().expect("temporary folder") };
        disk.mount_with(&format!("size={kib}k,mode=0700"));
        disk
    }

    fn mount_with(&self, options: &str) {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "shoal-test"])
            .arg(self.folder.path())
            .status()
            .expect("mount runs");
        assert!(mounted.success(), "mounting needs root");
    }

    /// Its root.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Takes all the room there is; again, what has become free since.
    ///
    /// # Panics
    /// When a write fails for another reason.
    pub fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.ballast()).expect("a file");
        let block = [0x5a; 4_096];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
                Err(error) => panic!("filling the disk: {error}"),
            }
        }
    }

    /// Gives it back.
    ///
    /// # Panics
    /// When it was not taken.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("there was ballast");
    }

    /// Lets nobody write from now on.
    ///
    /// # Panics
    /// When somebody is writing.
    pub fn make_read_only(&self) {
        let mounted =
            Command::new("mount").args(["-o", "remount,ro"]).arg(self.folder.path()).status().expect("mount runs");
        assert!(mounted.success(), "somebody has a file open for writing");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: whoever still has files open keeps them
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

//! A state directory for as long as the demo lasts.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder of this process alone, removed when this is dropped.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Makes one where the system keeps temporary files.
    pub(super) fn new() -> io::Result<Self> {
        let name = format!("tidegate-demo-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{} can't be made: {error}", path.display())))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // What can't be removed now is left to those who clean up temporary files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

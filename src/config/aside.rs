//! Reading the file again without keeping anybody waiting.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::process::nice;
use tokio::sync::oneshot;

use super::{Config, Loaded, Problem, Problems, load};

/// Of the thread that reads: a worker that shares its core gets nine times as much of it.
const NICENESS: i32 = 10;

/// Loads the file of `previous` again, as [`load`] does, on a thread of its own, which stands behind all others: ten thousand
/// services take half a second, and a disk that hangs any time.
///
/// # Errors
/// Everything that is wrong with the file, at once.
pub async fn load_again(previous: Arc<Config>) -> Result<Loaded, Problems> {
    let path = previous.path.clone();
    let (tell, told) = oneshot::channel();
    let read = move || {
        // A system that doesn't let us step back lets us read all the same.
        let _ = nice(NICENESS);
        // Whoever asked has left when the process ends.
        let _ = tell.send(load(&previous.path, Some(&previous)));
    };
    match thread::Builder::new().name("tidegate-reload".to_owned()).spawn(read) {
        Ok(_) => told.await.unwrap_or_else(|_| Err(unread(&path, "reading it ended in a panic"))),
        Err(error) => Err(unread(&path, &format!("no thread can be started to read it: {error}"))),
    }
}

fn unread(path: &Path, message: &str) -> Problems {
    Problems(vec![Problem::whole_file(path, message.to_owned(), "send SIGHUP once more")])
}

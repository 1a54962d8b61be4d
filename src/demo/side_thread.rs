//! A thread with a runtime of its own, for the parts of the demo that would be other machines in real life: what
//! they do must not wait for the proxy, nor the proxy for them.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

/// Ends when it is told to, or when this is dropped.
#[derive(Debug)]
pub(super) struct SideThread {
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

/// How work on a side thread learns that it should end.
pub(super) type Stopped = watch::Receiver<bool>;

impl SideThread {
    /// Starts `work`, which returns soon after it is told to stop; whatever it has spawned ends with it.
    pub(super) fn start<F, W>(name: &str, work: F) -> io::Result<Self>
    where
        F: FnOnce(Stopped) -> W + Send + 'static,
        W: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(work(stopped));
            drop(runtime);
            // Nobody listens where the demo ended at once.
            let _ = end.send(());
        })?;
        Ok(Self { stop, ended, thread })
    }

    /// Tells the work to end, and waits for it.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        // An error says that the thread panicked; it has ended then, too.
        let _ = self.ended.await;
        let _ = self.thread.join();
    }
}

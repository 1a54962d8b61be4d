//! A gate that is being asked, or watched.

use std::future::Future;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Standing;

/// The task ends with it.
#[derive(Debug)]
pub struct Asking {
    standing: watch::Receiver<Standing>,
    task: AbortHandle,
}

impl Asking {
    /// Asks once.
    #[must_use]
    pub fn once(what: impl Future<Output = Standing> + Send + 'static) -> Self {
        Self::again(|tell| async move {
            let standing = what.await;
            tell.send_replace(standing);
        })
    }

    /// Asks as often as the task likes.
    #[must_use]
    pub fn again<F>(task: impl FnOnce(watch::Sender<Standing>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (tell, standing) = watch::channel(Standing::Pending("no answer yet".to_owned()));
        Self { standing, task: tokio::spawn(task(tell)).abort_handle() }
    }

    /// As it is now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! Lets hyper spawn its HTTP/2 tasks on the worker's own thread.

use std::future::Future;

use hyper::rt::Executor;

/// Spawns on the current thread's runtime, so that what is spawned may hold `Rc`s.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

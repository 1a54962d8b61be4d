//! Clients that go on asking, so that whatever happens to the proxy meanwhile can be seen to lose no request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{Answer, Wire, eventually};

const GET: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
/// Between two connections of a client that opens many, so that the machine doesn't run out of ports.
const REST: Duration = Duration::from_millis(3);

/// Clients under way. Any answer but a 200, and any connection that ends, is a panic.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Of each client.
    answered: Vec<Arc<AtomicUsize>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// `keeping` clients with a connection each, and `opening` clients that open one for each request.
    pub fn on(address: SocketAddr, keeping: usize, opening: usize) -> Self {
        let mut load = Self { stop: Arc::default(), answered: Vec::new(), clients: Vec::new() };
        for _ in 0..keeping {
            let (stop, answered) = load.client();
            load.clients.push(tokio::spawn(async move {
                let mut wire = Wire::connect(address).await;
                while !stop.load(Ordering::SeqCst) {
                    let answer = wire.exchange(GET).await;
                    assert_eq!(answer.head.value("connection"), None);
                    count(&answer, &answered);
                }
            }));
        }
        for _ in 0..opening {
            let (stop, answered) = load.client();
            load.clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    count(&Wire::connect(address).await.exchange(GET).await, &answered);
                    tokio::time::sleep(REST).await;
                }
            }));
        }
        load
    }

    /// What one more client looks at, and what it counts.
    fn client(&mut self) -> (Arc<AtomicBool>, Arc<AtomicUsize>) {
        let answered = Arc::<AtomicUsize>::default();
        self.answered.push(Arc::clone(&answered));
        (Arc::clone(&self.stop), answered)
    }

    pub fn answered(&self) -> usize {
        self.of_each().iter().sum()
    }

    fn of_each(&self) -> Vec<usize> {
        self.answered.iter().map(|answered| answered.load(Ordering::SeqCst)).collect()
    }

    /// Waits until so many more requests are answered.
    pub async fn goes_on(&self, requests: usize) {
        let wanted = self.answered() + requests;
        self.until(|| self.answered() >= wanted).await;
    }

    /// Waits until every request that is under way is answered.
    pub async fn comes_around(&self) {
        let before = self.of_each();
        self.until(|| self.of_each().iter().zip(&before).all(|(now, before)| now > before)).await;
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        let failed = || self.clients.iter().any(JoinHandle::is_finished);
        eventually("the load goes on", || condition() || failed()).await;
        assert!(!failed(), "a client of the load failed");
    }

    /// Ends it; the number of requests, all of which were answered.
    pub async fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.expect("no request is lost");
        }
        self.answered.iter().map(|answered| answered.load(Ordering::SeqCst)).sum()
    }
}

fn count(answer: &Answer, answered: &AtomicUsize) {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answered.fetch_add(1, Ordering::SeqCst);
}

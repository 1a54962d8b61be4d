//! A shop whose requests are copied.

use super::{Proxy, Setup, Upstream, backend};

/// A service `shop` of which `blue` answers and `green` gets copies of all GETs, unless more keys of the mirror say
/// otherwise. `more`: tables after the mirror's own.
pub fn mirrored(blue: &Upstream, green: &Upstream, keys: &str, more: &str) -> Setup {
    let backends = backend("blue", 1.0, blue) + &backend("green", 0.0, green);
    Setup::new().settings(&format!("[services.shop.mirror]\nbackend = \"green\"\n{keys}\n{backends}{more}"))
}

impl Proxy {
    /// Waits until so many copies were dropped for a reason.
    pub async fn copies_dropped(&self, why: &str, count: u64) {
        self.metric_becomes("tidegate_mirror_dropped_total", &format!("reason=\"{why}\""), count).await;
    }

    /// Waits until so many copies were answered.
    pub async fn copies_answered(&self, count: u64) {
        self.metric_becomes("tidegate_mirror_copies_total", "service=\"shop\"", count).await;
    }

    /// Copies that were dropped, whatever for.
    pub async fn all_copies_dropped(&self) -> u64 {
        self.metric("tidegate_mirror_dropped_total", "service=\"shop\"").await
    }

    /// Waits until no copy is under way, and nothing is held for one.
    pub async fn copies_are_over(&self) {
        self.metric_becomes("tidegate_mirror_in_flight", "", 0).await;
        self.metric_becomes("tidegate_mirror_memory_bytes", "", 0).await;
    }
}

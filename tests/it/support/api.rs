//! A shop of several backends, and the proxy's own API in front of it.

use std::ops::RangeInclusive;
use std::time::Instant;

use serde_json::Value;

use super::{Answer, Proxy, Signal, Upstream, Wire, eventually};

/// An endpoint's shortest good answer.
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An endpoint that answers with a name.
pub async fn named(name: &'static str) -> Upstream {
    Upstream::responding(move |_| {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()).into_bytes()
    })
    .await
}

/// A backend of the service `shop`, as proxy.toml has it.
pub fn backend(name: &str, weight: f64, upstream: &Upstream) -> String {
    format!("[services.shop.backends.{name}]\nweight = {weight}\nendpoints = [{:?}]\n", upstream.url())
}

/// `GET target` for `shop.test`, with more fields, each ended by a line break.
pub fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: shop.test\r\n{fields}\r\n")
}

impl Proxy {
    /// A call of the admin API; `fields` are more lines of its head, each ended by a line break.
    pub async fn call(&self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        let host = if fields.to_lowercase().contains("host:") { "" } else { "host: localhost\r\n" };
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {length}\r\n{fields}\r\n");
        Wire::connect(self.admin()).await.exchange(head + body).await
    }

    /// What `GET path` of the admin API says.
    pub async fn view(&self, path: &str) -> Value {
        let answer = self.call("GET", path, "", "").await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        serde_json::from_str(answer.text()).expect("the API speaks JSON")
    }

    /// Sets the weights of `shop`.
    pub async fn put_weights(&self, body: &str) -> Answer {
        self.call("PUT", "/v1/services/shop/weights", "content-type: application/json\r\n", body).await
    }

    /// Sets the weights of `shop`, which must work.
    pub async fn shift(&self, body: &str) {
        let answer = self.put_weights(body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }

    /// Makes the proxy read its file again, and waits until it has; whether it applied the file.
    pub async fn reload(&self) -> bool {
        let before = self.reloads().await;
        self.signal(Signal::HUP);
        self.reloads_become(before + 1).await;
        self.metric("tidegate_last_reload_successful", "").await == 1
    }

    /// The same, where it must be applied.
    pub async fn reload_well(&self) {
        assert!(self.reload().await, "{:?}", self.view("/v1/services").await["process"]["last_reload"]);
    }

    /// Reloads so far, refused ones included.
    pub async fn reloads(&self) -> u64 {
        self.metric("tidegate_reloads_total", "").await
    }

    /// Waits until there were so many.
    pub async fn reloads_become(&self, wanted: u64) {
        self.metric_reaches("tidegate_reloads_total", "", wanted).await;
    }

    /// An endpoint of `shop`, as the API shows it.
    pub async fn endpoint(&self, backend: usize, endpoint: usize) -> Value {
        self.view("/v1/services/shop").await["backends"][backend]["endpoints"][endpoint].clone()
    }

    /// Waits until that is its state.
    pub async fn endpoint_becomes(&self, backend: usize, endpoint: usize, state: &str) -> Value {
        let becoming = async {
            loop {
                let view = self.endpoint(backend, endpoint).await;
                if view["state"] == state {
                    return view;
                }
                tokio::time::sleep(super::POLL_INTERVAL).await;
            }
        };
        super::within(&format!("endpoint {backend}/{endpoint} to be {state}"), becoming).await
    }

    /// A backend's share of the requests to `shop`.
    pub async fn share(&self, backend: usize) -> f64 {
        self.view("/v1/services/shop").await["backends"][backend]["share"].as_f64().expect("a share is a number")
    }

    /// Waits until that is within these: an endpoint's state is seen a moment before what follows from it.
    pub async fn share_becomes(&self, backend: usize, wanted: RangeInclusive<f64>) {
        let within = wanted.start() - 1e-9..=wanted.end() + 1e-9;
        let becoming = async {
            while !within.contains(&self.share(backend).await) {
                tokio::time::sleep(super::POLL_INTERVAL).await;
            }
        };
        super::within(&format!("the share of backend {backend} to be {wanted:?}"), becoming).await;
    }

    /// The events of a kind that are written so far, the oldest first.
    pub async fn events(&self, kind: &str) -> Vec<Value> {
        let view = self.view("/v1/events?limit=1000").await;
        view["events"].as_array().expect("events are a list").iter().filter(|e| e["kind"] == kind).cloned().collect()
    }

    /// The same, once there are so many, which is a moment after what they tell can be seen; there must not be more.
    pub async fn told(&self, kind: &str, count: usize) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let events = self.events(kind).await;
            assert!(events.len() <= count, "{kind} is told more than {count} times: {events:#?}");
            if events.len() == count {
                return events;
            }
            assert!(start.elapsed() < super::PATIENCE, "{kind} isn't told {count} times: {events:#?}");
            tokio::time::sleep(super::POLL_INTERVAL).await;
        }
    }

    /// The only event of a kind, once it is written.
    pub async fn event(&self, kind: &str) -> Value {
        self.told(kind, 1).await.remove(0)
    }

    /// Waits for a line of the log whose message contains `text`.
    pub async fn logs(&self, text: &str) {
        let says = |line: &Value| line["message"].as_str().is_some_and(|message| message.contains(text));
        eventually(&format!("{text:?} is logged"), || self.log().iter().any(says)).await;
    }
}

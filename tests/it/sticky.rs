//! Sticky splits: a client keeps its backend, whatever it is recognised by.

use std::net::Ipv4Addr;

use crate::split::assert_share;
use crate::support::{Authority, Proxy, Refusing, Setup, Upstream, Wire, backend, get, named};

/// Attributes by name, values where they have one.
struct Cookie {
    value: String,
    attributes: Vec<String>,
}

fn cookie(text: &str) -> Cookie {
    let mut parts = text.split("; ").map(str::to_owned);
    let value = parts.next().and_then(|pair| pair.strip_prefix("tidegate=").map(str::to_owned));
    Cookie { value: value.expect("the cookie has its name"), attributes: parts.collect() }
}

struct Shop {
    blue: Upstream,
    canary: Upstream,
}

impl Shop {
    async fn open() -> Self {
        Self { blue: named("blue").await, canary: named("canary").await }
    }

    /// Behind a proxy that splits 3 to 1 and sticks by `sticky`.
    fn setup(&self, sticky: &str) -> Setup {
        let backends = backend("blue", 3.0, &self.blue) + &backend("canary", 1.0, &self.canary);
        Setup::new().settings(&format!("[services.shop]\nsticky = {{ {sticky} }}\n{backends}"))
    }
}

const BY_COOKIE: &str = "cookie = \"tidegate\"";

/// Visits as a client with a cookie; its backend.
async fn visit(wire: &mut Wire, value: &str) -> String {
    let answer = wire.exchange(get("/", &format!("cookie: a=b; tidegate={value}; c=d\r\n"))).await;
    assert_eq!(answer.head.value("set-cookie"), None, "a known client needs no new cookie");
    answer.text().to_owned()
}

/// Comes as a new client; its cookie's value and its backend.
async fn arrive(wire: &mut Wire) -> (String, String) {
    let answer = wire.exchange(get("/", "")).await;
    let value = cookie(answer.head.value("set-cookie").expect("a new client gets a cookie")).value;
    (value, answer.text().to_owned())
}

#[tokio::test]
async fn new_clients_are_split_as_the_weights_say_and_keep_their_backend() {
    let shop = Shop::open().await;
    let proxy = shop.setup(BY_COOKIE).workers(2).start().await;
    let mut wires = [proxy.connect().await, proxy.connect().await];
    let mut clients = Vec::new();
    for index in 0..1_000 {
        clients.push(arrive(&mut wires[index % 2]).await);
    }
    let canaries = clients.iter().filter(|(_, backend)| backend == "canary").count();
    assert_share(canaries, 1_000, 0.25);
    for (index, (value, backend)) in clients.iter().enumerate() {
        // On the other connection, which may be the other worker's.
        assert_eq!(visit(&mut wires[(index + 1) % 2], value).await, *backend);
    }
    let mut values: Vec<_> = clients.into_iter().map(|(value, _)| value).collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), 1_000, "every client has a cookie of its own");
}

#[tokio::test]
async fn the_cookie_is_the_same_on_every_arm_and_nothing_for_scripts_or_other_sites() {
    let shop = Shop::open().await;
    let proxy = shop.setup("cookie = \"tidegate\", max_age = \"7d\"").start().await;
    let mut client = proxy.connect().await;
    for arm in ["blue", "canary"] {
        let answer = loop {
            let answer = client.exchange(get("/", "")).await;
            if answer.text() == arm {
                break answer;
            }
        };
        let cookie = cookie(answer.head.value("set-cookie").expect("a new client gets a cookie"));
        assert_eq!(cookie.attributes, ["Path=/", "Max-Age=604800", "HttpOnly", "SameSite=Lax"], "{arm}");
        assert_eq!(cookie.value.len(), 66);
        assert!(!cookie.value.contains(arm));
        assert_eq!(answer.head.value("cache-control"), Some("private"), "no shared cache may keep it");
    }
}

#[tokio::test]
async fn a_new_client_of_a_dead_arm_keeps_it_as_any_other() {
    // As long as the arm isn't left by everybody.
    let (blue, nobody) = (named("blue").await, Refusing::new());
    let canary = format!("[services.shop.backends.canary]\nweight = 1\nendpoints = [{:?}]\n", nobody.url());
    let sticky = "[services.shop]\nrescue = \"off\"\nejection = \"off\"\nsticky = { cookie = \"tidegate\" }\n";
    let proxy = Setup::new().settings(&(sticky.to_owned() + &backend("blue", 1.0, &blue) + &canary)).start().await;
    let mut client = proxy.connect().await;
    let failed = loop {
        let answer = client.exchange(get("/", "")).await;
        if answer.status() == 502 {
            break answer;
        }
    };
    let cookie = cookie(failed.head.value("set-cookie").expect("a new client gets a cookie"));
    for _ in 0..20 {
        let again = client.exchange(get("/", &format!("cookie: tidegate={}\r\n", cookie.value))).await;
        assert_eq!(again.status(), 502, "to draw again would favour the other arm");
    }
}

#[tokio::test]
async fn over_tls_the_cookie_is_secure() {
    let (shop, authority) = (Shop::open().await, Authority::new());
    let proxy = shop.setup(BY_COOKIE).certificate(&authority.pair(&["shop.test"])).start().await;
    let mut client = Wire::new(authority.connect(proxy.https(), "shop.test", &["http/1.1"]).await);
    let answer = client.exchange(get("/", "")).await;
    let cookie = cookie(answer.head.value("set-cookie").expect("a new client gets a cookie"));
    assert!(cookie.attributes.contains(&"Secure".to_owned()), "{:?}", cookie.attributes);
    assert_eq!(visit(&mut client, &cookie.value).await, answer.text());
}

#[tokio::test]
async fn a_forged_cookie_is_replaced_by_a_new_one() {
    let shop = Shop::open().await;
    let proxy = shop.setup(BY_COOKIE).start().await;
    let mut client = proxy.connect().await;
    let (value, backend) = arrive(&mut client).await;
    let (id, signature) = value.split_once('.').expect("id and signature");
    let other = if id.starts_with('A') { "B" } else { "A" };
    let stolen = format!("{other}{}.{signature}", &id[1..]);
    for forged in [&stolen, id, "", "canary", &"x".repeat(66), &"a".repeat(4_000)] {
        let answer = client.exchange(get("/", &format!("cookie: tidegate={forged}\r\n"))).await;
        let fresh = cookie(answer.head.value("set-cookie").expect("a forger is a new client")).value;
        assert_ne!(fresh, value);
        assert_eq!(visit(&mut client, &fresh).await, answer.text());
    }
    // A good one after a bad one of the same name is found.
    let fields = format!("cookie: tidegate={stolen}; tidegate={value}\r\n");
    let answer = client.exchange(get("/", &fields)).await;
    assert_eq!((answer.head.value("set-cookie"), answer.text()), (None, backend.as_str()));
}

#[tokio::test]
async fn cookies_outlive_the_process() {
    let shop = Shop::open().await;
    let first = shop.setup(BY_COOKIE).start().await;
    let (value, backend) = arrive(&mut first.connect().await).await;
    let key = std::fs::read(first.folder().join("state/cookie.key")).expect("the key is kept");
    drop(first);
    let setup = shop.setup(BY_COOKIE);
    std::fs::create_dir(setup.folder().join("state")).expect("the folder is ours");
    std::fs::write(setup.folder().join("state/cookie.key"), key).expect("the folder is ours");
    let second = setup.start().await;
    assert_eq!(visit(&mut second.connect().await, &value).await, backend);
}

#[tokio::test]
async fn raising_a_weight_only_moves_clients_to_it_and_lowering_it_only_away() {
    let shop = Shop::open().await;
    let proxy = shop.setup(BY_COOKIE).start().await;
    let mut wire = proxy.connect().await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(arrive(&mut wire).await);
    }
    let ramp = [(2.0, "canary"), (5.0, "canary"), (20.0, "canary"), (3.0, "blue"), (0.0, "blue")];
    for (weight, towards) in ramp {
        proxy.shift(&format!("{{\"blue\": 3, \"canary\": {weight}}}")).await;
        let mut moved = 0;
        for (value, backend) in &mut clients {
            let now = visit(&mut wire, value).await;
            if now != *backend {
                assert_eq!(now, towards, "at {weight}");
                moved += 1;
                *backend = now;
            }
        }
        assert!(moved > 0, "nobody moved at {weight}");
        let canaries = clients.iter().filter(|(_, backend)| backend == "canary").count();
        if weight > 0.0 {
            assert_share(canaries, 300, weight / (3.0 + weight));
        } else {
            assert_eq!(canaries, 0);
        }
    }
}

/// Whether a client that `ask` speaks for always meets the same backend, and which.
async fn only_backend(wire: &mut Wire, fields: &str) -> String {
    let first = wire.exchange(get("/", fields)).await;
    assert_eq!(first.head.value("set-cookie"), None);
    for _ in 0..3 {
        assert_eq!(wire.exchange(get("/", fields)).await.text(), first.text(), "{fields}");
    }
    first.text().to_owned()
}

#[tokio::test]
async fn a_header_tells_clients_apart() {
    let shop = Shop::open().await;
    let proxy = shop.setup("header = \"x-user\"").start().await;
    let mut wire = proxy.connect().await;
    let mut canaries = 0;
    for user in 0..400 {
        let backend = only_backend(&mut wire, &format!("X-User: user-{user}\r\n")).await;
        canaries += usize::from(backend == "canary");
    }
    assert_share(canaries, 400, 0.25);
}

#[tokio::test]
async fn without_the_header_each_request_is_split_by_itself() {
    let shop = Shop::open().await;
    let proxy = shop.setup("header = \"x-user\"").start().await;
    let mut wire = proxy.connect().await;
    let mut canaries = 0;
    for _ in 0..400 {
        canaries += usize::from(wire.exchange(get("/", "")).await.text() == "canary");
    }
    assert_share(canaries, 400, 0.25);
}

async fn by_address(proxy: &Proxy, address: Ipv4Addr) -> String {
    only_backend(&mut Wire::connect_from(address, proxy.http()).await, "").await
}

#[tokio::test]
async fn addresses_tell_clients_apart() {
    let shop = Shop::open().await;
    let proxy = shop.setup("network = {}").start().await;
    let mut canaries = 0;
    for host in 0..300_u16 {
        let [high, low] = host.to_be_bytes();
        let backend = by_address(&proxy, Ipv4Addr::new(127, 9, high, low + u8::from(host == 0))).await;
        canaries += usize::from(backend == "canary");
    }
    assert_share(canaries, 300, 0.25);
}

#[tokio::test]
async fn clients_of_one_network_share_a_backend() {
    let shop = Shop::open().await;
    let proxy = shop.setup("network = { ipv4 = 24 }").start().await;
    let mut backends = Vec::new();
    for network in 1..=40 {
        let first = by_address(&proxy, Ipv4Addr::new(127, 9, network, 1)).await;
        for host in [2, 100, 254] {
            assert_eq!(by_address(&proxy, Ipv4Addr::new(127, 9, network, host)).await, first);
        }
        backends.push(first);
    }
    assert!(backends.contains(&"blue".to_owned()) && backends.contains(&"canary".to_owned()));
}

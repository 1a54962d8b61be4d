//! What a mirror's backend answers is compared with what clients got, until it is known whether both are the same.

use std::fmt::Write;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use tokio::io::AsyncReadExt;

use crate::support::{
    POLL_INTERVAL, Proxy, Ran, Received, Setup, Signal, Upstream, Wire, backend, get, tidegate, within,
};

const MIRROR: &str = "/v1/services/shop/mirror";
const SECRET: &str = "hunter2";

/// Answers JSON, with a time and an id that are never the same again.
async fn noisy(price: f64) -> Upstream {
    shop(move |_, count| {
        json!({
            "generated_at": count,
            "cart": { "id": format!("c-{count}"), "total": 2598 },
            "items": [{ "sku": "a", "price": price }, { "sku": "b", "price": 1299.0 }],
        })
        .to_string()
    })
    .await
}

/// Answers with what `body` makes of a request and of how many came before, on all of these backends.
async fn shop(body: impl Fn(&Received, u64) -> String + Send + Sync + 'static) -> Upstream {
    static ANSWERS: AtomicU64 = AtomicU64::new(0);
    Upstream::responding(move |request| {
        whole("content-type: application/json\r\n", body(request, ANSWERS.fetch_add(1, Ordering::SeqCst)).as_bytes())
    })
    .await
}

fn whole(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Answers everything alike.
async fn always(fields: &'static str, body: Vec<u8>) -> Upstream {
    Upstream::responding(move |_| whole(fields, &body)).await
}

fn settings(blue: &Upstream, green: &Upstream, revision: &str, compare: &str) -> String {
    backend("blue", 100.0, blue)
        + &backend("green", 0.0, green)
        + &format!("revision = {revision:?}\n[services.shop.mirror]\nbackend = \"green\"\ncompare = {compare}\n")
}

async fn start(blue: &Upstream, green: &Upstream, compare: &str) -> Proxy {
    Setup::new().settings(&settings(blue, green, "2", compare)).start().await
}

/// Where the comparison stands.
async fn mirror(proxy: &Proxy) -> Value {
    proxy.view(MIRROR).await["mirrors"][0].clone()
}

/// Sends requests until `enough` of the comparison is known; every one of them is answered well.
async fn ask_until(proxy: &Proxy, target: &str, what: &str, enough: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        let mut wire = proxy.connect().await;
        loop {
            for _ in 0..10 {
                wire.send(get(target, "")).await;
                let head = wire.head().await;
                assert_eq!(head.status(), 200);
                wire.bytes(head.content_length().expect("the length is known")).await;
            }
            let view = mirror(proxy).await;
            if enough(&view) {
                return view;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    within(what, asking).await
}

async fn ask_until_outcome(proxy: &Proxy, outcome: &str) -> Value {
    let view = ask_until(proxy, "/", outcome, |view| view["verdict"]["outcome"] != "inconclusive").await;
    assert_eq!(view["verdict"]["outcome"], outcome, "{view:#}");
    view
}

async fn command(proxy: &Proxy, arguments: &[&str]) -> Ran {
    let admin = proxy.admin().to_string();
    Ran::of(tidegate(arguments).args(["--admin", &admin]).env("TIDEGATE_BY", "ada")).await
}

#[tokio::test]
async fn a_difference_is_found_among_times_and_ids_that_are_never_the_same() {
    let (blue, green) = (noisy(1299.0).await, noisy(12.99).await);
    let proxy = start(&blue, &green, "{ noise = true }").await;
    let view = ask_until_outcome(&proxy, "different").await;
    assert_eq!(view["verdict"]["fields"], json!(["$.items[*].price changed"]), "{view:#}");
    assert_eq!((&view["revision"], &view["stable"], &view["mode"]), (&json!("2"), &json!("blue"), &json!("noise leg")));
    let noise = |place: &str| {
        let fields = view["fields"].as_array().unwrap();
        let field = fields.iter().find(|field| field["place"] == place).expect("noise is shown, too");
        (field["found"] == false, field["shadow_only"] == 0)
    };
    assert_eq!(noise("$.generated_at"), (true, true));
    assert_eq!(noise("$.cart.id"), (true, true));
    let example = &view["examples"][0];
    assert_eq!((&example["primary"], &example["shadow"]), (&json!("1299.0"), &json!("12.99")), "{example:#}");
    assert_eq!((&example["method"], &example["path"]), (&json!("GET"), &json!("/")));

    let detail = &proxy.told("shadow_verdict", 1).await[0]["detail"];
    assert_eq!((&detail["backend"], &detail["verdict"]), (&json!("green"), &json!("different")));
    assert_eq!(detail["evidence"]["verdict"]["fields"], json!(["$.items[*].price changed"]));
    proxy.metric_becomes("tidegate_shadow_verdict", "verdict=\"different\"", 1).await;
    proxy.metric_becomes("tidegate_shadow_fields", "state=\"different\"", 1).await;
    let page = command(&proxy, &["shadow", "shop"]).await.out;
    assert!(page.contains("DIFFERENT: $.items[*].price changed, in "), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    let page = command(&proxy, &["status", "shop"]).await.out;
    assert!(page.contains("compared with blue: DIFFERENT: $.items[*].price changed, in "), "{page}");
    let line = command(&proxy, &["events", "shop"]).await.out;
    assert!(line.contains("green is different: $.items[*].price changed, in "), "{line}");
}

#[tokio::test]
async fn equal_answers_are_the_same_once_enough_of_them_were_seen() {
    let (blue, green) = (noisy(5.0).await, noisy(5.0).await);
    let proxy = start(&blue, &green, "{ noise = true, alpha = 0.1, tolerated = 0.1 }").await;
    let page = command(&proxy, &["shadow", "shop"]).await.out;
    assert!(page.contains("NOT KNOWN YET: nothing was compared yet; it takes about "), "{page}");
    let view = ask_until_outcome(&proxy, "same").await;
    assert!(view["difference_at_most"].as_f64().unwrap() <= 0.1, "{view:#}");
    assert!(view["examples"].as_array().unwrap().is_empty(), "{view:#}");
    proxy.metric_becomes("tidegate_shadow_verdict", "verdict=\"same\"", 1).await;
}

#[tokio::test]
async fn without_a_noise_leg_what_may_differ_is_ignored_by_name() {
    let (blue, green) = (noisy(5.0).await, noisy(5.0).await);
    let ignoring = "{ ignore = [\"$.generated_at\", \"$.cart.id\"], alpha = 0.1, tolerated = 0.1 }";
    let proxy = start(&blue, &green, ignoring).await;
    let view = ask_until_outcome(&proxy, "same").await;
    assert_eq!(view["mode"], "ignore rules");
    drop(proxy);
    let proxy = start(&blue, &green, "true").await;
    let view = ask_until_outcome(&proxy, "different").await;
    assert_eq!(view["verdict"]["fields"], json!(["$.cart.id changed", "$.generated_at changed"]));
}

#[tokio::test]
async fn a_shadow_that_fails_or_answers_no_json_differs() {
    let blue = noisy(5.0).await;
    let broken = shop(|_, count| format!("{{\"generated_at\": {count}, ")).await;
    let proxy = start(&blue, &broken, "{ noise = true }").await;
    let view = ask_until_outcome(&proxy, "different").await;
    assert_eq!(view["verdict"]["fields"], json!(["$ not json"]), "{view:#}");
    drop(proxy);
    let failing = Upstream::answering("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno").await;
    let proxy = start(&blue, &failing, "{ noise = true }").await;
    let both = |view: &Value| view["verdict"]["fields"] == json!(["failures", "status changed"]);
    let view = ask_until(&proxy, "/", "both to be known", both).await;
    assert_eq!(view["failures"]["primary_only"], 0);
}

#[tokio::test]
async fn one_that_breaks_every_copy_differs_and_what_is_held_back_proves_nothing() {
    let blue = noisy(5.0).await;
    let broken = Upstream::scripted(|mut wire: Wire, _| async move { drop(wire.next_head().await) }).await;
    let proxy = start(&blue, &broken, "true").await;
    let view = ask_until_outcome(&proxy, "different").await;
    assert_eq!(view["verdict"]["fields"], json!(["failures"]), "{view:#}");
    let dropped = async |why: &str| proxy.metric("tidegate_mirror_dropped_total", &format!("reason={why:?}")).await;
    let holding_back = async {
        while dropped("held_back").await < 100 {
            proxy.fetch("/").await;
        }
    };
    within("copies to be held back", holding_back).await;
    proxy.copies_are_over().await;
    let view = mirror(&proxy).await;
    assert_eq!(view["verdict"]["outcome"], "different");
    assert!(view["pairs"]["seen"].as_u64().expect("it is a count") <= dropped("broken").await, "{view:#}");
    assert_eq!(view["pairs"]["compared"], 0);
    assert_eq!(proxy.view(MIRROR).await["held_back"], json!(["green"]));
    let page = command(&proxy, &["shadow", "shop"]).await;
    assert!(page.out.contains("held back"), "{}", page.out);
    let page = command(&proxy, &["status"]).await;
    assert!(page.out.contains("held back: green"), "{}", page.out);
}

#[tokio::test]
async fn an_answer_that_announces_more_than_is_read_differs_by_its_length() {
    let (blue, green) = (
        always("", vec![b'x'; 3_000]).await,
        Upstream::scripted(|mut wire: Wire, _| async move {
            wire.next_head().await;
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n";
            drop(wire.try_send([head.as_bytes(), &[b'x'; 2_000]].concat()).await);
            wire.rest().await;
        })
        .await,
    );
    let proxy = start(&blue, &green, "{ body_max = \"1KiB\" }\nanswer_max = \"2KiB\"\ntimeout = \"1h\"").await;
    let differs = |view: &Value| view["fields"][0]["change"] == "length";
    let view = ask_until(&proxy, "/", "the length to differ", differs).await;
    assert_eq!(view["fields"][0]["place"], "body", "{view:#}");
    assert_eq!(view["fields"].as_array().map(Vec::len), Some(1), "{view:#}");
}

#[tokio::test]
async fn hostile_answers_are_compared_as_bytes_and_cost_the_client_nothing() {
    let blue = noisy(5.0).await;
    let json = "content-type: application/json\r\n";
    let deep = [vec![b'['; 200_000], vec![b']'; 200_000]].concat();
    let mut wide = String::from("[");
    (0..1_000_000).for_each(|n| write!(wide, "{{\"k{n}\":{n}}},").unwrap());
    wide += "0]";
    for (what, body) in [("deep", deep), ("large", wide.into_bytes())] {
        let green = always(json, body).await;
        let proxy = start(&blue, &green, "{ noise = true }").await;
        let view = ask_until(&proxy, "/", what, |view| view["verdict"]["outcome"] == "different").await;
        let fields = view["verdict"]["fields"].to_string();
        assert!(fields.contains("body") || fields.contains("failures"), "{what}: {view:#}");
    }
}

#[tokio::test]
async fn compressed_answers_are_compared_as_they_are() {
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let fields = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let (blue, green) = (always(fields, gzip("{\"a\":1}")).await, always(fields, gzip("{\"a\":2}")).await);
    let proxy = start(&blue, &green, "true").await;
    let view = ask_until_outcome(&proxy, "different").await;
    assert_eq!(view["verdict"]["fields"], json!(["body changed"]));
}

#[tokio::test]
async fn secrets_are_nowhere_to_be_seen() {
    let blue = shop(|_, count| json!({ "password": format!("{SECRET}-{count}"), "n": 1 }).to_string()).await;
    let green = shop(|_, count| json!({ "password": format!("{SECRET}-{count}"), "card": SECRET }).to_string()).await;
    let proxy = start(&blue, &green, "{ examples = 9 }").await;
    let target = format!("/pay?token={SECRET}&n=1");
    let view = ask_until(&proxy, &target, "a verdict", |view| view["verdict"]["outcome"] == "different").await;
    assert_eq!(view["examples"].as_array().unwrap().len(), 3, "{view:#}");
    assert_eq!(view["examples"][0]["path"], "/pay?token=(redacted)&n=1");
    let told = proxy.told("shadow_verdict", 1).await;
    let log: Vec<Value> = proxy.log();
    for text in [view.to_string(), Value::from(told).to_string(), Value::from(log).to_string()] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[tokio::test]
async fn another_revision_or_a_person_has_it_begin_anew() {
    let (blue, green) = (noisy(1.0).await, noisy(2.0).await);
    let mut proxy = start(&blue, &green, "{ noise = true }").await;
    ask_until_outcome(&proxy, "different").await;
    let page = command(&proxy, &["shadow", "shop", "--reset"]).await.out;
    assert!(page.contains("NOT KNOWN YET"), "{page}");
    assert_eq!(proxy.told("shadow_reset", 1).await[0]["by"], "ada (cli)");
    ask_until_outcome(&proxy, "different").await;

    proxy.rewrite(&settings(&blue, &green, "3", "{ noise = true }"));
    proxy.reload_well().await;
    let is_anew = |view: &Value| view["revision"] == "3" && view["verdict"]["outcome"] == "different";
    ask_until(&proxy, "/", "the new revision to be known", is_anew).await;
    proxy.told("shadow_verdict", 3).await;

    proxy.rewrite(&(backend("blue", 100.0, &blue) + &backend("green", 0.0, &green)));
    proxy.reload_well().await;
    assert_eq!(proxy.view(MIRROR).await["mirrors"], json!([]));
    let page = command(&proxy, &["shadow", "shop"]).await.out;
    assert!(page.contains("no mirror of shop compares answers"), "{page}");
}

#[tokio::test]
async fn what_is_known_outlives_the_process_and_begins_anew_where_it_was_forgotten() {
    let (blue, green) = (noisy(1.0).await, noisy(2.0).await);
    let mut proxy = start(&blue, &green, "{ noise = true }").await;
    let before = ask_until_outcome(&proxy, "different").await;
    let state = proxy.folder().join("state").display().to_string();
    let again = |revision: &str| {
        Setup::new().settings(&settings(&blue, &green, revision, "{ noise = true }")).state_dir(&state)
    };
    proxy.signal(Signal::TERM);
    assert!(proxy.wait().await.success());
    let mut second = again("2").start().await;
    let after = mirror(&second).await;
    assert_eq!((&after["verdict"]["outcome"], &after["since"]), (&json!("different"), &before["since"]));
    assert!(after["pairs"]["seen"].as_u64() >= before["pairs"]["seen"].as_u64(), "{after:#}");
    assert_eq!(after["examples"], json!([]), "examples are never written down");
    assert_eq!(second.events("shadow_verdict").await.len(), 1, "it was told before");

    command(&second, &["shadow", "shop", "--reset"]).await;
    // Whatever ends a process: what was forgotten stays forgotten.
    second.signal(Signal::KILL);
    second.wait().await;
    let mut third = again("2").start().await;
    assert_eq!(mirror(&third).await["pairs"]["seen"], 0);
    ask_until_outcome(&third, "different").await;
    third.signal(Signal::TERM);
    assert!(third.wait().await.success());
    let fourth = again("3").start().await;
    assert_eq!(mirror(&fourth).await["pairs"]["seen"], 0, "another revision is another matter");
}

#[tokio::test]
async fn forgetting_says_when_a_restart_may_bring_it_back() {
    let (blue, green) = (noisy(1.0).await, noisy(2.0).await);
    let proxy = start(&blue, &green, "true").await;
    ask_until_outcome(&proxy, "different").await;
    // Somebody else's lock is as good as a full disk.
    let blocker = rusqlite::Connection::open(proxy.folder().join("state/journal.db")).expect("it can be opened");
    blocker.execute_batch("BEGIN IMMEDIATE").expect("it can be locked");
    let refused = command(&proxy, &["shadow", "shop", "--reset"]).await;
    assert!(refused.code == Some(1) && refused.err.contains("a restart may bring it back"), "{}", refused.err);
    assert_eq!(mirror(&proxy).await["pairs"]["seen"], 0);
    blocker.execute_batch("ROLLBACK").expect("it can be unlocked");
    let reset = command(&proxy, &["shadow", "shop", "--reset"]).await;
    assert_eq!(reset.code, Some(0), "{}", reset.err);
}

#[tokio::test]
async fn a_primary_that_answers_json_beyond_measure_costs_no_memory() {
    const PIECES: usize = 256;
    let blue = Upstream::scripted(|mut wire: Wire, _| async move {
        let piece = format!("[{}", "0,".repeat((1 << 19) - 1)).into_bytes();
        while wire.next_head().await.is_some() {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                PIECES * piece.len()
            );
            wire.send(head).await;
            for _ in 0..PIECES {
                if wire.try_send(&piece).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let green = shop(|_, _| "[0]".to_owned()).await;
    let proxy = start(&blue, &green, "true").await;
    let before = proxy.memory_kb();
    let mut wire = proxy.connect().await;
    wire.send(get("/", "")).await;
    let length = wire.head().await.content_length().expect("the length is known");
    let (mut left, mut buffer, mut most) = (length, vec![0; 1 << 20], before);
    while left > 0 {
        left -= wire.read(&mut buffer).await.expect("the proxy is there");
        most = most.max(proxy.memory_kb());
    }
    assert!(most - before < 16 << 10, "{} KiB more", most - before);
    proxy.metric_becomes("tidegate_mirror_pairs_total", "", 1).await;
    let view = ask_field(&proxy).await;
    assert_eq!(view, "body changed");
}

/// The first field that differs.
async fn ask_field(proxy: &Proxy) -> String {
    let asking = async {
        loop {
            let view = mirror(proxy).await;
            if let Some(field) = view["fields"].get(0) {
                return format!("{} {}", field["place"].as_str().unwrap(), field["change"].as_str().unwrap());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    within("a field", asking).await
}

#[tokio::test]
async fn whoever_asks_wrongly_is_told_so() {
    let (blue, green) = (noisy(1.0).await, noisy(2.0).await);
    let proxy = start(&blue, &green, "true").await;
    assert_eq!(proxy.call("GET", "/v1/services/other/mirror", "", "").await.status(), 404);
    assert_eq!(proxy.call("POST", "/v1/services/other/mirror/reset", "", "").await.status(), 404);
    assert_eq!(proxy.call("GET", "/v1/services/shop/mirror/reset", "", "").await.status(), 405);
    let refused = command(&proxy, &["shadow", "other"]).await;
    assert!(refused.err.contains("other"), "{}", refused.err);
}

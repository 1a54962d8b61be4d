//! Shifting traffic through the admin API: what is accepted, what is refused, and when requests see it.

use serde_json::{Value, json};

use crate::support::{Answer, Load, Proxy, Setup, Upstream, Wire, backend, get, named};

struct Shop {
    proxy: Proxy,
    blue: Upstream,
    canary: Upstream,
}

impl Shop {
    async fn open(workers: usize) -> Self {
        let (blue, canary) = (named("blue").await, named("canary").await);
        let backends = backend("blue", 100.0, &blue) + &backend("canary", 0.0, &canary);
        let proxy = Setup::new().workers(workers).settings(&backends).start().await;
        Self { proxy, blue, canary }
    }
}

/// What an answer that refuses says.
fn refusal(answer: &Answer) -> String {
    assert_eq!(answer.head.value("content-type"), Some("application/json"), "{}", answer.text());
    let body: Value = serde_json::from_str(answer.text()).expect("an error is JSON");
    let object = body.as_object().expect("an error is an object");
    assert_eq!(object.len(), 1, "{body}");
    object["error"].as_str().expect("it says what is wrong").to_owned()
}

#[tokio::test]
async fn the_view_shows_what_the_file_says_and_what_requests_see() {
    let shop = Shop::open(1).await;
    shop.proxy.shift(r#"{"blue": 89.5, "canary": 10.5}"#).await;
    let view = shop.proxy.view("/v1/services/shop").await;
    assert_eq!((&view["name"], &view["stable"], &view["overridden"]), (&json!("shop"), &json!("blue"), &json!(true)));
    let backends = view["backends"].as_array().expect("backends are a list");
    assert_eq!(backends[0]["weight"], json!({ "configured": 100.0, "wanted": 89.5, "effective": 89.5 }));
    assert_eq!(backends[1]["weight"], json!({ "configured": 0.0, "wanted": 10.5, "effective": 10.5 }));
    assert_eq!(backends[1]["share"], 0.105);
    assert_eq!(backends[1]["endpoints"], json!([{ "address": shop.canary.url(), "state": "up" }]));
    assert_eq!(shop.proxy.view("/v1/services").await["services"], json!([view]));
    let page = shop.proxy.call("GET", "/metrics", "", "").await;
    for sample in ["configured\"} 0", "effective\"} 10.5"] {
        let sample = format!("tidegate_backend_weight{{service=\"shop\",backend=\"canary\",kind=\"{sample}\n");
        assert!(page.text().contains(&sample), "{sample}");
    }

    shop.proxy.shift(r#"{"canary": 0, "blue": 100}"#).await;
    assert_eq!(shop.proxy.view("/v1/services/shop").await["overridden"], false);
}

#[tokio::test]
async fn the_answer_shows_the_service_as_it_is_now() {
    let shop = Shop::open(1).await;
    let answer = shop.proxy.put_weights(r#"{"blue": 1, "canary": 3}"#).await;
    let told: Value = serde_json::from_str(answer.text()).expect("the API speaks JSON");
    assert_eq!(told["backends"][1]["share"], 0.75);
    assert_eq!(told, shop.proxy.view("/v1/services/shop").await);
}

#[tokio::test]
async fn wrong_weights_are_refused_with_a_reason_and_change_nothing() {
    let shop = Shop::open(1).await;
    let before = shop.proxy.view("/v1/services").await["services"].clone();
    let long = format!("{{\"blue\": 1, \"canary\": {}1}}", " ".repeat(70_000));
    for (body, status, says) in [
        (r#"{"blue": 1}"#, 422, "missing: canary"),
        ("{}", 422, "missing: blue, canary"),
        (r#"{"blue": 1, "canary": 1, "green": 1}"#, 422, "no backend \"green\"; it has: blue, canary"),
        (r#"{"blue": 1, "canary": -1}"#, 422, "backend \"canary\": a weight is a number from 0 to 1000000000"),
        (r#"{"blue": 1, "canary": 1000000001}"#, 422, "not 1000000001"),
        (r#"{"blue": 1, "canary": 1e999}"#, 400, "number out of range"),
        (r#"{"blue": 1, "canary": NaN}"#, 400, "expected value"),
        (r#"{"blue": 1, "canary": "1"}"#, 422, "expected f64"),
        (r#"{"blue": 1, "canary": null}"#, 422, "expected f64"),
        (r#"{"blue": 0, "canary": 0}"#, 422, "at least one weight must be above 0"),
        (r#"{"blue": 1, "canary": 1, "canary": 2}"#, 422, "\"canary\" is given two weights"),
        ("[1, 2]", 422, "an object of backend names and weights"),
        (r#"{"blue": 1, "canary": 1"#, 400, "EOF"),
        (r#"{"blue": 1, "canary": 1} x"#, 400, "trailing characters"),
        ("", 400, "EOF"),
        ("\u{0}", 400, "expected value"),
        (&long, 413, "length limit"),
    ] {
        let answer = shop.proxy.put_weights(body).await;
        let body = &body[..body.len().min(60)];
        assert_eq!(answer.status(), status, "{body}: {}", answer.text());
        let error = refusal(&answer);
        assert!(error.contains(says), "{body}: {error}");
    }
    assert_eq!(shop.proxy.view("/v1/services").await["services"], before);
    assert_eq!(shop.proxy.fetch("/").await.text(), "blue");
}

#[tokio::test]
async fn calls_that_make_no_sense_are_refused_with_a_reason_and_change_nothing() {
    let shop = Shop::open(1).await;
    let json = "content-type: application/json\r\n";
    let weights = "/v1/services/shop/weights";
    let body = r#"{"blue": 0, "canary": 1}"#;
    for (method, path, fields, status, says) in [
        ("PUT", "/v1/services/cart/weights", json, 404, "no service \"cart\"; there are: shop"),
        ("GET", "/v1/services/cart", "", 404, "no service \"cart\"; there are: shop"),
        ("GET", "/v1/services/%ff", "", 400, "UTF-8"),
        ("PUT", weights, "", 415, "Content-Type: application/json"),
        ("PUT", weights, "content-type: text/plain\r\n", 415, "Content-Type: application/json"),
        ("PUT", weights, "content-type: application/x-www-form-urlencoded\r\n", 415, "application/json"),
        ("GET", weights, json, 405, "another method"),
        ("POST", weights, json, 405, "another method"),
        ("DELETE", "/v1/services/shop", json, 405, "another method"),
        ("PUT", "/v1/services", json, 405, "another method"),
        ("POST", "/metrics", json, 405, "another method"),
        ("GET", "/", "", 404, "no such call; see GET /v1/services"),
        ("PUT", "/v1/services/shop/weights/", json, 404, "no such call"),
    ] {
        let answer = shop.proxy.call(method, path, fields, body).await;
        assert_eq!(answer.status(), status, "{method} {path}: {}", answer.text());
        let error = refusal(&answer);
        assert!(error.contains(says), "{method} {path}: {error}");
    }
    assert_eq!(shop.proxy.fetch("/").await.text(), "blue");
    assert_eq!(shop.proxy.view("/v1/services/shop").await["overridden"], false);
}

#[tokio::test]
async fn after_the_answer_the_next_request_of_every_connection_sees_the_new_weights() {
    let shop = Shop::open(4).await;
    let mut wires = Vec::new();
    for _ in 0..16 {
        let mut wire = shop.proxy.connect().await;
        assert_eq!(wire.exchange(get("/", "")).await.text(), "blue");
        wires.push(wire);
    }
    for round in 0..20 {
        let (weights, wanted) = match round % 2 {
            0 => (r#"{"blue": 0, "canary": 100}"#, "canary"),
            _ => (r#"{"blue": 100, "canary": 0}"#, "blue"),
        };
        shop.proxy.shift(weights).await;
        for wire in &mut wires {
            wire.send(get("/", "")).await;
        }
        for wire in &mut wires {
            assert_eq!(wire.answer().await.text(), wanted, "round {round}");
        }
    }
}

#[tokio::test]
async fn shifting_under_load_loses_no_request() {
    let shop = Shop::open(2).await;
    let load = Load::on(shop.proxy.http(), 6, 2);
    for percent in (0..=100).step_by(5).chain((0..100).rev().step_by(5)) {
        shop.proxy.shift(&format!("{{\"blue\": {}, \"canary\": {percent}}}", 100 - percent)).await;
        load.goes_on(40).await;
    }
    let answered = load.finish().await;
    assert_eq!(shop.blue.requests().len() + shop.canary.requests().len(), answered, "every request came once");
    assert!(shop.canary.requests().len() > answered / 4);
}

#[tokio::test]
async fn two_callers_at_once_leave_the_weights_of_one_of_them() {
    let shop = Shop::open(1).await;
    for _ in 0..20 {
        let (first, second) = tokio::join!(
            shop.proxy.put_weights(r#"{"blue": 1, "canary": 9}"#),
            shop.proxy.put_weights(r#"{"blue": 8, "canary": 2}"#)
        );
        assert_eq!((first.status(), second.status()), (200, 200));
        let view = shop.proxy.view("/v1/services/shop").await;
        let weights = [0, 1].map(|index| view["backends"][index]["weight"]["effective"].as_f64());
        assert!([[Some(1.0), Some(9.0)], [Some(8.0), Some(2.0)]].contains(&weights), "{weights:?}");
    }
}

#[tokio::test]
async fn a_connection_to_the_api_carries_many_calls() {
    let shop = Shop::open(1).await;
    let mut wire = Wire::connect(shop.proxy.admin()).await;
    for _ in 0..3 {
        let call = "GET /v1/services/shop HTTP/1.1\r\nhost: localhost\r\n\r\n";
        assert_eq!(wire.exchange(call).await.status(), 200);
    }
}

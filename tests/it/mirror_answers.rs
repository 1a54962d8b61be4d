//! Where answers are compared, both are captured as they were, whatever happens to the client's on its way.

use bytes::Bytes;
use serde_json::Value;

use crate::support::http2::{Http2, get as get_http2, http2_endpoint};
use crate::support::{OK, Proxy, Setup, Upstream, Wire, backend, eventually, get, mirrored, named};

/// Pairs so far, in the order of their logging.
fn pairs(proxy: &Proxy) -> Vec<Value> {
    proxy.log().into_iter().filter(|line| line["message"] == "a pair of answers").collect()
}

async fn pair(proxy: &Proxy, index: usize) -> Value {
    eventually(&format!("pair {index} is there"), || pairs(proxy).len() > index).await;
    pairs(proxy)[index].clone()
}

/// `primary` and `shadow` of a pair.
fn shown(pair: &Value) -> (&str, &str) {
    (pair["primary"].as_str().unwrap(), pair["shadow"].as_str().unwrap())
}

#[tokio::test]
async fn a_pair_has_both_answers_and_names_the_request() {
    let blue = Upstream::answering(
        "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-type: text/plain\r\ndate: now\r\ncontent-length: 4\r\n\r\nblue",
    )
    .await;
    let green =
        Upstream::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\ngr\r\n3\r\neen\r\n0\r\n\r\n")
            .await;
    let proxy = mirrored(&blue, &green, "compare = true", "").start().await;
    proxy.fetch("/").await;
    let pair = pair(&proxy, 0).await;
    assert_eq!(shown(&pair), ("Whole 302, 2 headers, 4 of 4 bytes", "Whole 200, 0 headers, 5 of 5 bytes"));
    assert_eq!((&pair["mirror"], &pair["primary_backend"]), (&"green".into(), &"blue".into()));
    assert_eq!(pair["request_id"], *blue.request().head.value("x-request-id").unwrap());
    proxy.metric_becomes("tidegate_mirror_pairs_total", "mirror=\"green\"", 1).await;
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn what_is_compressed_for_the_client_is_captured_before() {
    let body = "blue ".repeat(1000);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answer: &'static str = answer.leak();
    let (blue, green) = (Upstream::answering(answer).await, Upstream::answering(answer).await);
    let proxy = mirrored(&blue, &green, "compare = true", "").settings("[services.shop.compression]").start().await;
    let answer = proxy.exchange(&get("/", "accept-encoding: gzip\r\n")).await;
    assert_eq!(answer.head.value("content-encoding"), Some("gzip"));
    let whole = "Whole 200, 1 headers, 5000 of 5000 bytes";
    assert_eq!(shown(&pair(&proxy, 0).await), (whole, whole));
}

#[tokio::test]
async fn only_the_beginning_of_a_large_body_is_kept() {
    let body = "x".repeat(100_000);
    let answer: &'static str = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak();
    let (blue, green) = (Upstream::answering(answer).await, Upstream::answering(answer).await);
    let proxy = mirrored(&blue, &green, "compare = { body_max = \"10000B\" }", "").start().await;
    assert_eq!(proxy.fetch("/").await.body.len(), body.len());
    let beginning = "Whole 200, 0 headers, 10000 of 100000 bytes";
    assert_eq!(shown(&pair(&proxy, 0).await), (beginning, beginning));
}

#[tokio::test]
async fn answers_without_a_body_are_whole() {
    let blue = Upstream::responding(|request| {
        match request.head.line.as_str() {
            line if line.starts_with("HEAD") => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
            _ => "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 304 Not Modified\r\n\r\n",
        }
        .into()
    })
    .await;
    let proxy = mirrored(&blue, &blue, "compare = true", "").start().await;
    let mut client = proxy.connect().await;
    client.send(get("/", "").replacen("GET", "HEAD", 1)).await;
    assert_eq!(client.head().await.status(), 200);
    let head = "Whole 200, 0 headers, 0 of 0 bytes";
    assert_eq!(shown(&pair(&proxy, 0).await), (head, head));
    client.send(get("/", "")).await;
    let unmodified = "Whole 304, 0 headers, 0 of 0 bytes";
    assert_eq!(shown(&pair(&proxy, 1).await), (unmodified, unmodified));
}

#[tokio::test]
async fn http2_answers_and_grpcs_trailers_are_captured() {
    let answering = |status: &'static str| {
        http2_endpoint(None, move |mut stream| async move {
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut body = stream.respond.send_response(head, false).expect("the stream is open");
            body.send_data(Bytes::from_static(b"message"), false).expect("the stream is open");
            let trailers = [("grpc-status", status)].into_iter();
            let trailers = trailers.map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
            body.send_trailers(trailers).expect("the stream is open");
        })
    };
    let (blue, green) = (answering("0").await, answering("13").await);
    let settings = format!(
        "[services.shop.mirror]\nbackend = \"green\"\nmethods = [\"POST\"]\nlarge_body = \"stream\"\ncompare = true\n{}protocol = \"h2\"\n{}protocol = \"h2\"\n",
        backend("blue", 1.0, &blue),
        backend("green", 0.0, &green)
    );
    let proxy = Setup::new().settings(&settings).start().await;
    let client = Http2::over(tokio::net::TcpStream::connect(proxy.http()).await.expect("it listens")).await;
    let mut request = get_http2("/shop.Cart/Add");
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let (status, message) = client.exchange(request).await;
    assert_eq!((status.as_u16(), message.trailers.unwrap()["grpc-status"].to_str().unwrap()), (200, "0"));
    let whole = "Whole 200, 2 headers, 7 of 7 bytes";
    assert_eq!(shown(&pair(&proxy, 0).await), (whole, whole));
}

#[tokio::test]
async fn the_clients_answer_is_compared_whoever_gave_it() {
    // The first backend fails, and stable answers in its place.
    let (blue, green) = (named("blue").await, named("green").await);
    let canary = Upstream::answering("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
    let settings = format!(
        "[services.shop]\nstable = \"blue\"\nguard = \"off\"\n[services.shop.mirror]\nbackend = \"green\"\n\
         compare = {{ noise = true }}\n{}{}{}",
        backend("blue", 0.001, &blue),
        backend("canary", 1e6, &canary),
        backend("green", 0.0, &green)
    );
    let proxy = Setup::new().settings(&settings).start().await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    let pair = pair(&proxy, 0).await;
    assert_eq!(shown(&pair), ("Whole 200, 0 headers, 4 of 4 bytes", "Whole 200, 0 headers, 5 of 5 bytes"));
    assert_eq!((&pair["primary_backend"], pair.get("noise")), (&"blue".into(), None));
}

#[tokio::test]
async fn a_second_copy_shows_the_noise() {
    let (blue, green) = (named("blue").await, named("green").await);
    let proxy = mirrored(&blue, &green, "host_suffix = \"-shadow\"\ncompare = { noise = true }", "").start().await;
    proxy.fetch("/").await;
    let pair = pair(&proxy, 0).await;
    assert_eq!(pair["noise"], "Whole 200, 0 headers, 4 of 4 bytes");
    proxy.metric_becomes("tidegate_mirror_noise_total", "", 1).await;
    let heads: Vec<_> = blue.requests().into_iter().map(|request| request.head).collect();
    let (own, second): (Vec<_>, Vec<_>) = heads.iter().partition(|head| head.value("tidegate-mirror").is_none());
    assert_eq!((own.len(), second.len()), (1, 1));
    assert_eq!(second[0].value("tidegate-mirror"), Some("shop/blue"));
    assert_eq!(second[0].value("host"), Some("shop.test"));
    proxy.metric_becomes("tidegate_requests_total", "backend=\"blue\"", 1).await;
}

#[tokio::test]
async fn how_answers_ended_is_told_of_both() {
    let blue = Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            let answer =
                if head.line.contains("/half") { "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf" } else { OK };
            if wire.try_send(answer).await.is_err() || answer != OK {
                return;
            }
        }
    })
    .await;
    let green = Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            if head.line.contains("/slow") {
                wire.rest().await;
            } else if head.line.contains("/broken") || wire.try_send(OK).await.is_err() {
                return;
            }
        }
    })
    .await;
    let keys = "timeout = \"300ms\"\ncompare = true";
    let proxy = mirrored(&blue, &green, keys, "").start().await;
    let whole = "Whole 200, 0 headers, 2 of 2 bytes";
    proxy.fetch("/slow").await;
    assert_eq!(shown(&pair(&proxy, 0).await), (whole, "TimedOut 0, 0 headers, 0 of 0 bytes"));
    proxy.fetch("/broken").await;
    assert_eq!(shown(&pair(&proxy, 1).await), (whole, "Failed(\"broken\") 0, 0 headers, 0 of 0 bytes"));
    let mut client = proxy.connect().await;
    client.send(get("/half", "")).await;
    client.rest().await;
    let half = "Failed(\"response_broken\") 200, 0 headers, 4 of 4 bytes";
    assert_eq!(shown(&pair(&proxy, 2).await), (half, whole));
}

#[tokio::test]
async fn a_client_that_leaves_is_nobodys_difference() {
    let blue = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.next_head().await;
        drop(wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await);
        wire.rest().await;
    })
    .await;
    let green = named("green").await;
    let proxy = mirrored(&blue, &green, "compare = true", "").start().await;
    let mut client = proxy.connect().await;
    client.send(get("/", "")).await;
    client.head().await;
    client.bytes(4).await;
    proxy.copies_answered(1).await;
    drop(client);
    let aborted = "Aborted 200, 0 headers, 4 of 4 bytes";
    assert_eq!(shown(&pair(&proxy, 0).await), (aborted, "Whole 200, 0 headers, 5 of 5 bytes"));
    proxy.copies_are_over().await;
}

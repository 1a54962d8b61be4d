//! Header rewriting: a browser's request towards an endpoint, an endpoint's answer towards a browser.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderValue, Request, Response};
use tidegate::proxy::{ForwardedClient, RequestNames, rewrite_request, rewrite_response};

fn request() -> Request<()> {
    let request = Request::builder()
        .uri("/cart/items?page=2")
        .header("host", "shop.example.com")
        .header("connection", "keep-alive")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
        .header("accept-language", "en-GB,en;q=0.5")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("cookie", "tidegate=abc; session=0123456789abcdef")
        .header("x-forwarded-for", "192.0.2.1")
        .body(());
    request.expect("the request above is well formed")
}

fn response() -> Response<()> {
    let response = Response::builder()
        .header("server", "nginx/1.22.1")
        .header("date", "Thu, 01 Jan 2026 00:00:00 GMT")
        .header("content-type", "text/html")
        .header("content-length", "1234")
        .header("connection", "keep-alive")
        .header("cache-control", "no-store")
        .body(());
    response.expect("the response above is well formed")
}

fn rewriting(criterion: &mut Criterion) {
    let client = ForwardedClient { address: HeaderValue::from_static("203.0.113.9"), secure: true, certificate: None };
    criterion.bench_function("headers/request", |b| {
        b.iter_batched_ref(
            request,
            |request| {
                let names = RequestNames::of(request.headers());
                rewrite_request(request, names, &client);
            },
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("headers/response", |b| {
        b.iter_batched_ref(
            response,
            |response| rewrite_response(response.headers_mut(), || HeaderValue::from_static("")),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, rewriting);
criterion_main!(benches);

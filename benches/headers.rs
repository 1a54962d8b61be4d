//! Header rewriting: a browser's request towards an endpoint, an endpoint's answer towards a browser.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderValue, Request, Response, Version};
use tidegate::config::Trust;
use tidegate::model::Via;
use tidegate::proxy::{
    ForwardedClient, Introduction, Origin, RequestNames, ResponseAdditions, Trace, new_id, rewrite_request,
    rewrite_response,
};

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
    let client = ForwardedClient::new([203, 0, 113, 9].into(), true, 443, None);
    let (via, trust) = (Via::new("tidegate"), Trust::default());
    criterion.bench_function("headers/request", |b| {
        b.iter_batched_ref(
            request,
            |request| {
                let names = RequestNames::of(request.headers());
                let origin = Origin::of(&client, &trust, request, names);
                let introduction = Introduction {
                    client: &client,
                    origin: &origin,
                    request_id: &new_id([7; 16]),
                    trace: &Trace::Untouched,
                    via: Some(&via),
                    forwarded: false,
                    changes: None,
                };
                rewrite_request(request, names, &introduction);
            },
            BatchSize::SmallInput,
        );
    });
    let id = new_id([7; 16]);
    for (name, via, request_id) in
        [("headers/response", Some(&via), None), ("headers/response_with_id", Some(&via), Some(&id))]
    {
        let additions = ResponseAdditions { via, request_id, changes: None };
        let date = || HeaderValue::from_static("");
        criterion.bench_function(name, |b| {
            b.iter_batched_ref(
                response,
                |response| rewrite_response(response.headers_mut(), Version::HTTP_11, &additions, date),
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, rewriting);
criterion_main!(benches);

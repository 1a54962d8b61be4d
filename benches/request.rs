//! The request path end to end, over loopback: a client, the proxy with one worker, an endpoint. Times are of the
//! whole round trip, mostly the kernel's; `docs/benchmarks.md` says how the proxy's own part is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::app::App;

const LARGE_BYTES: usize = 1 << 20;

/// Answers every request on every connection with `body`, each connection on a thread of its own.
fn endpoint(body: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_all(stream, body));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream, body: usize) {
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + body, b'x');
    let mut request = [0; 4096];
    while let Ok(1..) = stream.read(&mut request) {
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Runs a proxy in front of `endpoint` until the process ends; returns where it listens.
fn proxy(endpoint: SocketAddr) -> SocketAddr {
    let folder = std::env::temp_dir().join(format!("tidegate-bench-{}-{}", std::process::id(), endpoint.port()));
    let file = format!(
        "state_dir = \"{}\"\nworkers = 1\n[limits]\nrequests_per_connection = 1000000000\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [services.shop.backends.blue]\nweight = 95\nendpoints = [\"http://{endpoint}\"]\n\
         [services.shop.backends.canary]\nweight = 5\nendpoints = [\"http://{endpoint}\"]\n",
        folder.display()
    );
    let loaded = tidegate::config::parse(&file, Path::new("bench.toml"), &|_| None, None);
    let config = loaded.expect("the file above is valid").config;
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async {
            let app = App::start(config, None).await.expect("the proxy starts");
            tell.send(app.addresses()[0]).expect("the bench waits");
            std::future::pending::<()>().await;
        });
    });
    told.recv().expect("the proxy tells its address")
}

/// One keep-alive connection to the proxy, and the size of each answer on it.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    answer: usize,
}

impl Client {
    fn new(proxy: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).expect("the proxy listens");
        stream.set_nodelay(true).expect("a connected socket takes options");
        let mut client = Self { stream, buffer: vec![0; 256 * 1024], answer: usize::MAX };
        client.answer = client.first();
        client
    }

    fn ask(&mut self) {
        self.stream.write_all(b"GET /cart HTTP/1.1\r\nhost: shop.test\r\n\r\n").expect("the proxy reads");
    }

    /// The whole size of an answer, learnt from its head.
    fn first(&mut self) -> usize {
        self.ask();
        let mut seen = Vec::new();
        loop {
            let read = self.stream.read(&mut self.buffer).expect("the proxy answers");
            seen.extend_from_slice(&self.buffer[..read]);
            let text = String::from_utf8_lossy(&seen).into_owned();
            let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let length: usize = length.and_then(|l| l.parse().ok()).expect("the answer has a length");
            let whole = head.len() + 4 + length;
            while seen.len() < whole {
                let read = self.stream.read(&mut self.buffer).expect("the proxy answers");
                seen.extend_from_slice(&self.buffer[..read]);
            }
            return whole;
        }
    }

    fn round_trip(&mut self) {
        self.ask();
        let mut rest = self.answer;
        while rest > 0 {
            rest -= self.stream.read(&mut self.buffer).expect("the proxy answers");
        }
    }
}

fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for (name, body) in [("h1_consecutive_x1_100b", 100), ("h1_consecutive_x1_1mib", LARGE_BYTES)] {
        let endpoint = endpoint(body);
        let (mut direct, mut proxied) = (Client::new(endpoint), Client::new(proxy(endpoint)));
        group.throughput(Throughput::Bytes(body as u64));
        group.bench_function(name, |b| b.iter(|| proxied.round_trip()));
        group.bench_function(format!("{name}_without_proxy"), |b| b.iter(|| direct.round_trip()));
    }
    group.finish();
}

criterion_group!(benches, round_trips);
criterion_main!(benches);

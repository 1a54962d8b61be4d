//! The PROXY protocol: who a client is when another proxy says so, and telling it to endpoints.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Authority, Nginx, OK, Proxy, Setup, Upstream, Wire, connect, curl, free_address, get, within};

const V1: &str = "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";

/// Version 2 of the same, with a TLV behind the addresses.
fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    header.extend([192, 0, 2, 1, 198, 51, 100, 7]);
    header.extend(56_324_u16.to_be_bytes().iter().chain(&443_u16.to_be_bytes()));
    header.extend([0xee, 0, 1, 7]);
    header
}

/// A proxy with a plain listener, and another that wants PROXY headers from 127.0.0.1.
async fn behind(upstream: &Upstream, more: &str) -> (Proxy, SocketAddr) {
    let listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = [\"127.0.0.1\"]";
    let setup = Setup::new().settings(listener).settings(more).backend(&[upstream.url()], "");
    let proxy = setup.start().await;
    let address = listener_of(&proxy, 1);
    (proxy, address)
}

fn listener_of(proxy: &Proxy, index: usize) -> SocketAddr {
    let lines = proxy.log().into_iter().filter(|line| line["message"] == "listening").collect::<Vec<_>>();
    lines[index]["address"].as_str().and_then(|text| text.parse().ok()).expect("an address is logged")
}

fn client_of(upstream: &Upstream, index: usize) -> String {
    upstream.requests()[index].head.value("x-forwarded-for").unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_header_names_the_client() {
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = behind(&upstream, "").await;
    for (index, (header, client)) in [
        (V1.as_bytes().to_vec(), "192.0.2.1"),
        (v2(), "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n".to_vec(), "2001:db8::9"),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::1 1 2\r\n".to_vec(), "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut wire = Wire::connect(address).await;
        // The request comes with the header, and none of its bytes is lost.
        let answer = wire.exchange([header.as_slice(), get("/", "").as_bytes()].concat()).await;
        assert_eq!(answer.status(), 200, "{client}");
        assert_eq!(client_of(&upstream, index), client);
        assert_eq!(upstream.requests()[index].head.line, "GET / HTTP/1.1");
    }
    // It is said once, for all of a connection's requests.
    let mut wire = Wire::connect(address).await;
    assert_eq!(wire.exchange([V1.as_bytes(), get("/", "").as_bytes()].concat()).await.status(), 200);
    assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
    assert_eq!(client_of(&upstream, 7), "192.0.2.1");
    assert_eq!(wire.exchange([V1.as_bytes(), get("/", "").as_bytes()].concat()).await.status(), 400, "not twice");
    assert_eq!(proxy.fetch("/").await.status(), 200, "the other listener wants none");
    assert_eq!(upstream.requests().len(), 9);
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let upstream = Upstream::answering(OK).await;
    let (_proxy, address) = behind(&upstream, "").await;
    for header in [V1.as_bytes().to_vec(), v2()] {
        let mut wire = Wire::connect(address).await;
        for byte in header {
            wire.send([byte]).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
    }
    assert_eq!((client_of(&upstream, 0).as_str(), client_of(&upstream, 1).as_str()), ("192.0.2.1", "192.0.2.1"));
}

#[tokio::test]
async fn a_connection_without_a_good_header_is_closed_without_an_answer() {
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = behind(&upstream, "").await;
    let mut huge = v2();
    huge[14] = 0xff;
    let mut unknown = v2();
    unknown[12] = 0x2f;
    let bad = [
        get("/", "").into_bytes(),
        format!("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 {}\r\n{}", "x".repeat(200), get("/", "")).into_bytes(),
        format!("PROXY TCP4 localhost 5.6.7.8 1 2\r\n{}", get("/", "")).into_bytes(),
        format!("PROXY {}", "x".repeat(5000)).into_bytes(),
        [huge.as_slice(), &vec![0; 70_000], get("/", "").as_bytes()].concat(),
        [unknown.as_slice(), get("/", "").as_bytes()].concat(),
        b"\x16\x03\x01\x02\0\x01".to_vec(),
    ];
    for (index, bytes) in bad.iter().enumerate() {
        let mut wire = Wire::connect(address).await;
        let _ = wire.try_send(bytes).await;
        assert_eq!(wire.rest().await, b"", "{index}");
        proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"proxy_header\"", index as u64 + 1).await;
    }
    // A look whether the port is open is no error; half a header is.
    drop(Wire::connect(address).await);
    Wire::connect(address).await.send("PROXY TC").await;
    proxy.metric_becomes("tidegate_connection_errors_total", "", bad.len() as u64 + 1).await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn nobody_else_may_name_a_client() {
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = behind(&upstream, "").await;
    for header in [V1.as_bytes(), &v2(), b""] {
        let mut wire = Wire::connect_from(Ipv4Addr::new(127, 0, 0, 2), address).await;
        let _ = wire.try_send([header, get("/", "").as_bytes()].concat()).await;
        assert_eq!(wire.rest().await, b"");
    }
    proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"proxy_untrusted\"", 3).await;
    // Where no header is expected, one is no HTTP.
    let answer = proxy.connect().await.exchange([V1.as_bytes(), get("/", "").as_bytes()].concat()).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_header_that_never_comes_takes_nothing_from_others() {
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = behind(&upstream, "[timeouts]\nheader_read = \"300ms\"").await;
    let mut silent = Wire::connect(address).await;
    let mut slow = Wire::connect(address).await;
    slow.send("PROXY TCP4 1").await;
    let mut good = Wire::connect(address).await;
    assert_eq!(good.exchange([V1.as_bytes(), get("/", "").as_bytes()].concat()).await.status(), 200);
    assert_eq!((silent.rest().await, slow.rest().await), (Vec::new(), Vec::new()));
    assert_eq!(good.exchange(get("/", "")).await.status(), 200);
    proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"proxy_timeout\"", 2).await;
}

#[tokio::test]
async fn the_limit_for_each_client_is_for_those_that_are_named() {
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = behind(&upstream, "[limits]\nconnections_per_client = 1").await;
    let request = |last: u8| format!("PROXY TCP4 192.0.2.{last} 198.51.100.7 1 2\r\n{}", get("/", ""));
    let mut inside = Vec::new();
    for last in 1..4 {
        let mut wire = Wire::connect(address).await;
        assert_eq!(wire.exchange(request(last)).await.status(), 200);
        inside.push(wire);
    }
    let mut again = Wire::connect(address).await;
    let _ = again.try_send(request(1)).await;
    assert_eq!(again.rest().await, b"");
    proxy.metric_becomes("tidegate_connections_refused_total", "limit=\"connections_per_client\"", 1).await;
}

#[tokio::test]
async fn curl_names_a_client_in_front_of_tls() {
    let upstream = Upstream::answering(OK).await;
    let authority = Authority::new();
    let pair = authority.pair(&["shop.test"]);
    let listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = [\"127.0.0.0/8\"]\n\
        tls = [{ cert = \"cert.pem\", key = \"key.pem\" }]";
    let setup = Setup::new().file("cert.pem", &pair.cert).file("key.pem", &pair.key).settings(listener);
    let proxy = setup.backend(&[upstream.url()], "").start().await;
    let url = format!("https://shop.test:{}/", proxy.https().port());
    let resolve = format!("shop.test:{}:127.0.0.1", proxy.https().port());
    for version in ["--http1.1", "--http2"] {
        let said = curl(&["--insecure", version, "--resolve", &resolve, "--haproxy-protocol", &url]).await;
        assert_eq!(said, "ok");
    }
    assert_eq!(client_of(&upstream, 0), "127.0.0.1");
    // The header is outside of TLS: within it, it's no HTTP, and without it, TLS is no header.
    assert!(connect(authority.client(&[]).into(), proxy.https(), "shop.test").await.is_err());
    proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"proxy_header\"", 1).await;
    let mut tcp = tokio::net::TcpStream::connect(proxy.https()).await.expect("connecting works");
    tokio::io::AsyncWriteExt::write_all(&mut tcp, &v2()).await.expect("it takes bytes");
    let name = rustls::pki_types::ServerName::try_from("shop.test").expect("a name is a name");
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(authority.client(&[])));
    let stream = within("a TLS handshake", tls.connect(name, tcp)).await.expect("the handshake works");
    assert_eq!(Wire::new(stream).exchange(get("/", "")).await.status(), 200);
    assert_eq!(client_of(&upstream, 2), "192.0.2.1");
}

/// HAProxy in front of us; gone when dropped.
struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn haproxy_tells_who_its_client_is() {
    let upstream = Upstream::answering(OK).await;
    let (_proxy, address) = behind(&upstream, "").await;
    let folder = tempfile::TempDir::new().expect("there is room for temporary files");
    for (index, send) in ["send-proxy", "send-proxy-v2"].into_iter().enumerate() {
        let front = free_address();
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\nlisten front\n bind {front}\n \
             server tidegate {address} {send}\n"
        );
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, config).expect("the folder is ours");
        let mut command = Command::new("haproxy");
        let command = command.args(["-q", "-db", "-f"]).arg(&path).stdin(Stdio::null()).stderr(Stdio::null());
        let _haproxy = Haproxy(command.spawn().expect("haproxy is installed"));
        crate::support::eventually("haproxy listens", || std::net::TcpStream::connect(front).is_ok()).await;
        let mut wire = Wire::connect_from(Ipv4Addr::new(127, 0, 0, 9), front).await;
        assert_eq!(wire.exchange(get("/", "")).await.status(), 200, "{send}");
        assert_eq!(client_of(&upstream, index), "127.0.0.9", "{send}");
    }
}

/// Answers with the line that comes before the first request of a connection.
async fn recording() -> Upstream {
    Upstream::scripted(|mut wire: Wire, _| async move {
        let line = wire.line().await;
        while wire.next_head().await.is_some() {
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len())).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_endpoint_is_told_the_client_on_a_connection_of_its_own() {
    let upstream = recording().await;
    let proxy = Setup::new().backend(&[upstream.url()], "proxy_protocol = \"v1\"").start().await;
    let port = proxy.http().port();
    for last in [5, 6, 5] {
        let mut wire = Wire::connect_from(Ipv4Addr::new(127, 0, 0, last), proxy.http()).await;
        for _ in 0..2 {
            let answer = wire.exchange(get("/", "")).await;
            let line = answer.text();
            assert!(line.starts_with(&format!("PROXY TCP4 127.0.0.{last} 127.0.0.1 ")), "{line}");
            assert!(line.ends_with(&format!(" {port}")), "{line}");
        }
    }
    assert_eq!(upstream.connections(), 6);
}

#[tokio::test]
async fn nginx_understands_what_we_tell() {
    for version in ["v1", "v2"] {
        let server = "listen {address} proxy_protocol; location / { return 200 $proxy_protocol_addr; }";
        let nginx = Nginx::start(server, &[]).await;
        let url = format!("http://{}", nginx.address);
        let setup = Setup::new().backend(&[url], &format!("proxy_protocol = {version:?}"));
        let listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = [\"127.0.0.1\"]";
        let proxy = setup.settings(listener).start().await;
        for last in [5, 6] {
            let mut wire = Wire::connect_from(Ipv4Addr::new(127, 0, 0, last), proxy.http()).await;
            assert_eq!(wire.exchange(get("/", "")).await.text(), format!("127.0.0.{last}"), "{version}");
        }
        // Told on, from the one in front of us to the one behind.
        let mut wire = Wire::connect(listener_of(&proxy, 1)).await;
        let answer = wire.exchange(format!("PROXY TCP6 2001:db8::9 2001:db8::1 1 2\r\n{}", get("/", ""))).await;
        assert_eq!(answer.text(), "2001:db8::9", "{version}");
    }
}

#[tokio::test]
async fn an_endpoint_is_told_before_its_tls() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    let server = "listen {address} ssl proxy_protocol; ssl_certificate {folder}/cert.pem; \
        ssl_certificate_key {folder}/key.pem; location / { return 200 $proxy_protocol_addr; }";
    let nginx = Nginx::start(server, &[("cert.pem", &pair.cert), ("key.pem", &pair.key)]).await;
    let url = format!("https://{}", nginx.address);
    let setup = Setup::new().file("ca.pem", &authority.pem);
    let proxy = setup.backend(&[url], "proxy_protocol = \"v2\"\ntls = { ca = \"ca.pem\" }").start().await;
    assert_eq!(proxy.fetch("/").await.text(), "127.0.0.1");
}

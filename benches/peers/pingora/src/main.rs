//! The proxy that a few lines of Pingora make: a split by weight between two backends, and the same headers as its
//! peers.

use std::collections::HashSet;
use std::net::SocketAddr;

use async_trait::async_trait;
use clap::Parser;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{Error, ErrorType, HttpPeer, ProxyHttp, Result, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::{Opt, ServerConf};
use rand::RngExt;

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    plain: SocketAddr,
    #[arg(long)]
    secure: SocketAddr,
    #[arg(long)]
    cert: String,
    #[arg(long)]
    key: String,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// The first takes 95 % of the requests.
    #[arg(long, num_args = 2)]
    http: Vec<SocketAddr>,
    /// The same for gRPC.
    #[arg(long, num_args = 2)]
    grpc: Vec<SocketAddr>,
    /// The same for WebSocket.
    #[arg(long, num_args = 2)]
    websocket: Vec<SocketAddr>,
    /// So many hosts, each known by name; 0 for any host.
    #[arg(long, default_value_t = 0)]
    hosts: usize,
}

struct Proxy {
    args: Args,
    hosts: HashSet<String>,
}

fn main() {
    let args = Args::parse();
    let conf = ServerConf {
        threads: args.workers,
        upstream_keepalive_pool_size: 256,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    let (plain, secure) = (args.plain.to_string(), args.secure.to_string());
    let mut tls = TlsSettings::intermediate(&args.cert, &args.key).expect("the certificate can be read");
    tls.enable_h2();
    let hosts = (0..args.hosts).map(|number| format!("shop{number}.test")).collect();
    let mut service = http_proxy_service(&server.configuration, Proxy { args, hosts });
    service.add_tcp(&plain);
    service.add_tls_with_settings(&secure, None, tls);
    server.add_service(service);
    server.run_forever();
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let head = session.req_header();
        if !self.hosts.is_empty() && !self.hosts.contains(host(head)) {
            return Err(Error::new(ErrorType::HTTPStatus(404)));
        }
        let path = head.uri.path();
        let is_grpc = path.starts_with("/bench.");
        let backends = match path {
            _ if is_grpc => &self.args.grpc,
            "/ws" => &self.args.websocket,
            _ => &self.args.http,
        };
        let is_canary = rand::rng().random_range(0..100) < 5;
        let mut peer = HttpPeer::new(backends[usize::from(is_canary)], false, String::new());
        if is_grpc {
            peer.options.set_http_version(2, 2);
        }
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(&self, session: &mut Session, head: &mut RequestHeader, _: &mut ()) -> Result<()> {
        let client =
            session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_string());
        let port = session.server_addr().and_then(|address| address.as_inet()).map(SocketAddr::port);
        let is_secure = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        let host = host(head).to_owned();
        head.insert_header("X-Forwarded-For", client.unwrap_or_default())?;
        head.insert_header("X-Forwarded-Proto", if is_secure { "https" } else { "http" })?;
        head.insert_header("X-Forwarded-Host", host)?;
        head.insert_header("X-Forwarded-Port", port.unwrap_or_default().to_string())?;
        head.insert_header("X-Request-Id", format!("{:032x}", rand::rng().random::<u128>()))?;
        head.append_header("Via", "1.1 pingora")?;
        Ok(())
    }

    async fn response_filter(&self, _: &mut Session, head: &mut ResponseHeader, _: &mut ()) -> Result<()> {
        head.append_header("Via", "1.1 pingora")?;
        Ok(())
    }
}

fn host(head: &RequestHeader) -> &str {
    let named = head.headers.get("host").and_then(|host| host.to_str().ok());
    named.or_else(|| head.uri.host()).unwrap_or_default()
}

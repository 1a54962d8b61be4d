//! The proxies under test: each as its own best documentation would have it for a canary at 5 %.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tempfile::TempDir;

use crate::fault::Fault;

const READY_WITHIN: Duration = Duration::from_secs(10);

/// Which proxy, and how it is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// Two backends and their weights, and nothing else.
    Tidegate,
    /// `max_fails` and `proxy_next_upstream`.
    Nginx,
    /// `observe layer7`, redispatch, and retries of everything that can be retried.
    Haproxy,
    /// The same, retrying nothing but connecting, since an attempt that is retried isn't observed.
    HaproxyObserve,
    /// Outlier detection on one cluster, and retries to another host.
    Envoy,
    /// A plain weighted split: `split_clients`.
    NginxSplit,
    /// A plain weighted split: `use_backend` at random.
    HaproxySplit,
    /// A plain weighted split: `weighted_clusters`, with outlier detection and retries in each.
    EnvoySplit,
}

impl Contender {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::HaproxyObserve => "HAProxy, answers not retried",
            Self::Envoy => "Envoy",
            Self::NginxSplit => "nginx, split_clients",
            Self::HaproxySplit => "HAProxy, random use_backend",
            Self::EnvoySplit => "Envoy, weighted_clusters",
        }
    }

    /// What it is run with: in `programs` or on the path; `None` where it can't be had.
    pub(crate) fn program(self, programs: &Programs) -> Option<PathBuf> {
        let found = match self {
            Self::Tidegate => programs.tidegate.clone(),
            Self::Nginx | Self::NginxSplit => on_path("nginx")?,
            Self::Haproxy | Self::HaproxyObserve | Self::HaproxySplit => on_path("haproxy")?,
            Self::Envoy | Self::EnvoySplit => programs.envoy.clone().or_else(|| on_path("envoy"))?,
        };
        // It runs in a folder of its own.
        fs::canonicalize(found).ok()
    }
}

/// Programs that aren't on everybody's path.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) tidegate: PathBuf,
    pub(crate) envoy: Option<PathBuf>,
}

/// Debian keeps servers where only root's path leads.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A fresh process with a folder of its own; killed when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    process: Child,
    folder: TempDir,
}

impl Proxy {
    /// Starts it in front of two origins, and returns once it answers.
    pub(crate) fn start(
        contender: Contender,
        program: &Path,
        fault: Fault,
        workers: Option<usize>,
        (stable, candidate): (SocketAddr, SocketAddr),
    ) -> io::Result<Self> {
        let folder = TempDir::new()?;
        let at = folder.path().display().to_string();
        let (address, admin) = (free_address()?, free_address()?);
        let config = config(contender, fault)
            .replace("{dir}", &at)
            .replace("{workers}", &workers.map(|workers| format!("workers = {workers}")).unwrap_or_default())
            .replace("{listen}", &address.to_string())
            .replace("{port}", &address.port().to_string())
            .replace("{admin}", &admin.to_string())
            .replace("{admin_port}", &admin.port().to_string())
            .replace("{stable}", &stable.to_string())
            .replace("{stable_port}", &stable.port().to_string())
            .replace("{candidate}", &candidate.to_string())
            .replace("{candidate_port}", &candidate.port().to_string());
        let file = match contender {
            Contender::Tidegate => "proxy.toml",
            Contender::Nginx | Contender::NginxSplit => "nginx.conf",
            Contender::Haproxy | Contender::HaproxyObserve | Contender::HaproxySplit => "haproxy.cfg",
            Contender::Envoy | Contender::EnvoySplit => "envoy.yaml",
        };
        let file = folder.path().join(file);
        fs::write(&file, config)?;
        let mut command = Command::new(program);
        match contender {
            Contender::Tidegate => command.args(["run", "--config"]).arg(&file),
            Contender::Nginx | Contender::NginxSplit => command.args(["-p", &at, "-c"]).arg(&file),
            Contender::Haproxy | Contender::HaproxyObserve | Contender::HaproxySplit => {
                command.args(["-db", "-f"]).arg(&file)
            }
            Contender::Envoy | Contender::EnvoySplit => {
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"]).arg(&file)
            }
        };
        let log = File::create(folder.path().join("log"))?;
        command.current_dir(folder.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        let process = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut proxy = Self { address, admin, process, folder };
        proxy.wait_ready()?;
        Ok(proxy)
    }

    fn wait_ready(&mut self) -> io::Result<()> {
        let begin = Instant::now();
        while !answers(self.address) {
            if self.process.try_wait()?.is_some() || begin.elapsed() > READY_WITHIN {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("the proxy doesn't answer:\n{log}")));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx leaves its worker behind when killed, so all are asked first.
        if let Ok(pid) = i32::try_from(self.process.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let begin = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(2) {
            sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Free a moment ago, which is good enough where nobody else opens ports.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn config(contender: Contender, fault: Fault) -> String {
    match contender {
        Contender::Tidegate if fault == Fault::Flapping => format!("{TIDEGATE}{TIDEGATE_PROBATION}"),
        Contender::Tidegate => TIDEGATE.to_owned(),
        Contender::Nginx => NGINX.replace("{upstreams}", NGINX_BEST),
        Contender::NginxSplit => NGINX.replace("{upstreams}", NGINX_SPLIT),
        Contender::Haproxy => format!("{HAPROXY}{HAPROXY_BEST}").replace("{retry_on}", "all-retryable-errors"),
        Contender::HaproxyObserve => format!("{HAPROXY}{HAPROXY_BEST}").replace("{retry_on}", "conn-failure"),
        Contender::HaproxySplit => format!("{HAPROXY}{HAPROXY_SPLIT}"),
        Contender::Envoy => {
            let cluster = envoy_cluster("shop", &[("{stable_port}", 95), ("{candidate_port}", 5)]);
            ENVOY.replace("{action}", "cluster: shop").replace("{clusters}", &cluster)
        }
        Contender::EnvoySplit => {
            let clusters =
                [envoy_cluster("stable", &[("{stable_port}", 1)]), envoy_cluster("canary", &[("{candidate_port}", 1)])];
            let action = "weighted_clusters: { clusters: [{ name: stable, weight: 95 }, { name: canary, weight: 5 }] }";
            ENVOY.replace("{action}", action).replace("{clusters}", &clusters.concat())
        }
    }
}

const TIDEGATE: &str = r#"
state_dir = "state"
{workers}
[[listeners]]
address = "{listen}"
[admin]
address = "{admin}"
[services.shop.backends.stable]
weight = 95
endpoints = ["http://{stable}"]
[services.shop.backends.canary]
weight = 5
endpoints = ["http://{candidate}"]
"#;

/// A day's patience in two minutes.
const TIDEGATE_PROBATION: &str = r#"
[services.shop]
probation = { after = "10s", percent = 1, pass = "10s" }
"#;

/// One worker, since each has an opinion of its own about servers. The `user` only matters to root, whose worker would
/// otherwise have to be nobody, whom a user namespace doesn't know.
const NGINX: &str = r#"
worker_processes 1; daemon off; user root root; pid {dir}/nginx.pid; error_log stderr crit;
events { worker_connections 8192; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_connect_timeout 1s; proxy_read_timeout 1s;
  {upstreams}
  server { listen {listen}; location / { proxy_pass http://$backend; } }
}
"#;

const NGINX_BEST: &str = "
  upstream shop {
    server {stable} weight=95 max_fails=3 fail_timeout=10s;
    server {candidate} weight=5 max_fails=3 fail_timeout=10s;
    keepalive 256; keepalive_requests 1000000000;
  }
  map $host $backend { default shop; }
  proxy_next_upstream error timeout invalid_header http_500 http_502 http_503 http_504;
  proxy_next_upstream_tries 2;
";

const NGINX_SPLIT: &str = r#"
  upstream stable { server {stable}; keepalive 256; keepalive_requests 1000000000; }
  upstream canary { server {candidate}; keepalive 256; keepalive_requests 1000000000; }
  split_clients "$request_id" $backend { 95% stable; * canary; }
"#;

const HAPROXY: &str = "
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 1s
  timeout client 300s
  timeout server 1s
  http-reuse always
";

/// A server that was marked down comes back once a TCP check, ten seconds later, has found it listening. Checks are
/// otherwise rare: observing servers depends on having some, and connections that are refused are counted.
const HAPROXY_BEST: &str = "
frontend front
  bind {listen}
  default_backend shop
backend shop
  balance random
  retries 2
  option redispatch 1
  retry-on {retry_on}
  server stable {stable} weight 95 check inter 60s downinter 10s rise 1 observe layer7 error-limit 3 on-error mark-down
  server canary {candidate} weight 5 check inter 60s downinter 10s rise 1 observe layer7 error-limit 3 on-error mark-down
";

const HAPROXY_SPLIT: &str = "
frontend front
  bind {listen}
  use_backend canary if { rand(100) lt 5 }
  default_backend stable
backend stable
  server s1 {stable}
backend canary
  server s1 {candidate}
";

const ENVOY: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: {admin_port} } } }
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: {port} } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            virtual_hosts:
            - name: shop
              domains: ["*"]
              routes:
              - match: { prefix: / }
                route:
                  {action}
                  retry_policy:
                    retry_on: 5xx,reset,connect-failure,refused-stream
                    num_retries: 2
                    per_try_timeout: 1s
                    retry_host_predicate:
                    - name: envoy.retry_host_predicates.previous_hosts
                      typed_config:
                        "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
                    host_selection_retry_max_attempts: 10
  clusters:
{clusters}"#;

/// Three failures in a row, as its peers count them; at most one of two hosts is ejected.
fn envoy_cluster(name: &str, hosts: &[(&str, u32)]) -> String {
    let endpoint = |(port, weight): &(&str, u32)| {
        format!(
            "        - load_balancing_weight: {weight}
          endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}\n"
        )
    };
    let percent = 100 / hosts.len();
    let endpoints: String = hosts.iter().map(endpoint).collect();
    format!(
        "  - name: {name}
    type: STATIC
    lb_policy: ROUND_ROBIN
    connect_timeout: 1s
    common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}
    outlier_detection: {{ consecutive_5xx: 3, interval: 1s, base_ejection_time: 30s, max_ejection_percent: {percent} }}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
{endpoints}"
    )
}

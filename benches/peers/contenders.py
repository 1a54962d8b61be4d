"""What is measured, and what it stands between: processes with their configurations, all set up for the same job.

Each splits 95:5 between two backends, keeps connections to them, tells them the same about the client in six headers,
speaks HTTP/1.1 in the clear and HTTP/1.1 and HTTP/2 over TLS 1.3 with one certificate, and hands on gRPC (over HTTP/2)
and WebSocket. Bodies are streamed, whatever their size. tidegate is as its user gets it: metrics, guard, ejection,
retries and rescue are on.
"""

import glob
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
READY_SECONDS = 60

HTTP, GRPC, WEBSOCKET = (19101, 19102), (19103, 19104), (19105, 19106)
ORIGIN_TLS = 19107
SERVICES = 10_000

ORIGIN = """
worker_processes 1; daemon off; user root root; pid {dir}/origin.pid; error_log stderr crit;
events { worker_connections 16384; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; sendfile on; tcp_nodelay on;
  client_body_temp_path {dir}/origin-body; client_max_body_size 0;
  server { listen 127.0.0.1:19101 backlog=4096; listen 127.0.0.1:19102 backlog=4096; listen 127.0.0.1:19107 ssl http2;
    ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
    location / { return 200 "hello from the origin, this is a small body\\n"; }
    location /files/ { root {dir}; }
    # The whole body is read before a word is answered, which "return" alone doesn't wait for.
    location /up { client_body_buffer_size 2m; proxy_pass http://127.0.0.1:19101/; proxy_pass_request_body off;
      proxy_set_header Content-Length ""; } } }
"""

NGINX = """
worker_processes {workers}; daemon off; user root root; pid {dir}/{name}.pid; error_log stderr crit;
events { worker_connections 16384; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  upstream blue { server 127.0.0.1:19101; keepalive 256; keepalive_requests 1000000000; }
  upstream canary { server 127.0.0.1:19102; keepalive 256; keepalive_requests 1000000000; }
  upstream grpc_blue { server 127.0.0.1:19103; keepalive 256; keepalive_requests 1000000000; }
  upstream grpc_canary { server 127.0.0.1:19104; keepalive 256; keepalive_requests 1000000000; }
  upstream ws_blue { server 127.0.0.1:19105; }
  upstream ws_canary { server 127.0.0.1:19106; }
  split_clients "$request_id" $backend { 95% blue; * canary; }
  client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0; proxy_buffers 8 32k;
  proxy_buffer_size 16k; proxy_busy_buffers_size 64k; server_names_hash_max_size 65536; http2_max_concurrent_streams 256;
  proxy_http_version 1.1; proxy_set_header Connection "";
  proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
  proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Request-Id $request_id;
  proxy_set_header Via "1.1 nginx";
  grpc_set_header Host $host; grpc_set_header X-Forwarded-For $remote_addr;
  grpc_set_header X-Forwarded-Proto $scheme; grpc_set_header X-Forwarded-Host $host;
  grpc_set_header X-Forwarded-Port $server_port; grpc_set_header X-Request-Id $request_id;
  grpc_set_header Via "1.1 nginx";
  add_header Via "1.1 nginx";
  {servers}
}
"""
# Of one server: each that has a certificate has all of OpenSSL's memory for it.
NGINX_LISTEN = """listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{secure} ssl http2 backlog=4096;
    ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.3;
    ssl_session_cache shared:sessions:10m;"""
# What the one server has; each of 10,000 only has the first line, and shares the rest, which is nginx's own best.
NGINX_LOCATION = "location / { proxy_pass http://$backend; }"
NGINX_SERVER = NGINX_LOCATION + """
    location /bench. { grpc_pass grpc://grpc_$backend; }
    location /ws { proxy_pass http://ws_$backend; proxy_set_header Connection "upgrade";
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $host; }
"""

HAPROXY = """
global
  nbthread {workers}
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout tunnel 300s
  http-reuse always
frontend front
  bind 127.0.0.1:{plain}
  bind 127.0.0.1:{secure} ssl crt {dir}/both.pem alpn h2,http/1.1
  option forwardfor
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Request-Id %[uuid()]
  http-request add-header Via "1.1 haproxy"
  http-response add-header Via "1.1 haproxy"
  http-request set-var(txn.part) str(canary) if { rand(100) lt 5 }
  use_backend grpc_canary if { path_beg /bench. } { var(txn.part) -m found }
  use_backend grpc_blue if { path_beg /bench. }
  use_backend ws_canary if { path /ws } { var(txn.part) -m found }
  use_backend ws_blue if { path /ws }
  {routes}
  use_backend canary if { var(txn.part) -m found }
  default_backend blue
backend blue
  server s 127.0.0.1:19101
backend canary
  server s 127.0.0.1:19102
backend grpc_blue
  server s 127.0.0.1:19103 proto h2
backend grpc_canary
  server s 127.0.0.1:19104 proto h2
backend ws_blue
  server s 127.0.0.1:19105
backend ws_canary
  server s 127.0.0.1:19106
"""

ENVOY = """
admin: { address: { socket_address: { address: 127.0.0.1, port_value: {admin} } } }
static_resources:
  listeners:
  - name: plain
    address: { socket_address: { address: 127.0.0.1, port_value: {plain} } }
    filter_chains:
    - filters:
{manager}
  - name: secure
    address: { socket_address: { address: 127.0.0.1, port_value: {secure} } }
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_params: { tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }
            tls_certificates:
            - { certificate_chain: { filename: {dir}/cert.pem }, private_key: { filename: {dir}/key.pem } }
      filters:
{manager}
  clusters:
{clusters}
"""
ENVOY_MANAGER = """
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          use_remote_address: true
          generate_request_id: true
          via: "1.1 envoy"
          upgrade_configs: [{ upgrade_type: websocket }]
          http2_protocol_options: { max_concurrent_streams: 256 }
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            request_headers_to_add:
            - { header: { key: x-forwarded-host, value: "%REQ(:AUTHORITY)%" } }
            - { header: { key: x-forwarded-port, value: "%DOWNSTREAM_LOCAL_PORT%" } }
            virtual_hosts:
{hosts}"""
ENVOY_ROUTES = """[
              { match: { prefix: /bench. }, route: { weighted_clusters: { clusters: [{ name: grpc_blue, weight: 95 }, { name: grpc_canary, weight: 5 }] } } },
              { match: { path: /ws }, route: { weighted_clusters: { clusters: [{ name: ws_blue, weight: 95 }, { name: ws_canary, weight: 5 }] } } },
              { match: { prefix: / }, route: { timeout: 0s, weighted_clusters: { clusters: [{ name: blue, weight: 95 }, { name: canary, weight: 5 }] } } } ]"""
ENVOY_CLUSTER = """
  - name: {name}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: { thresholds: [{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }] }
    {protocol}
    load_assignment:
      cluster_name: {name}
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: {port} } } } }] }]"""
ENVOY_HTTP2 = """typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }"""

TIDEGATE = """
state_dir = "state-{name}"
workers = {workers}
[[listeners]]
address = "127.0.0.1:{plain}"
[[listeners]]
address = "127.0.0.1:{secure}"
tls = [{ cert = "cert.pem", key = "key.pem" }]
[limits]
requests_per_connection = 1000000000
streams = 256
[admin]
address = "127.0.0.1:{admin}"
"""
TIDEGATE_SERVICE = """
[services.{service}]
{settings}
{routes}
[services.{service}.backends.blue]
weight = 95
endpoints = ["http://127.0.0.1:{blue}"]
{protocol}
[services.{service}.backends.canary]
weight = 5
endpoints = ["http://127.0.0.1:{canary}"]
{protocol}
"""
# What a service can do without.
UNGUARDED = """
guard = "off"
ejection = "off"
retry = "off"
rescue = "off"
"""


class Folder:
    """Where configurations, certificates and files are, and which cores whose processes run on."""

    def __init__(self, path, programs):
        self.path, self.programs = pathlib.Path(path), programs
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("benches/peers/run: needs two cores, for the proxies and for load")
        # The proxies', then the generators'; the origins have one of their own if there is one.
        self.proxy_core, self.load_core = cores[0], cores[1]
        self.origin_core = cores[2] if len(cores) > 2 else cores[1]
        self.two_cores = [cores[0], cores[3] if len(cores) > 3 else cores[1]]
        subprocess.run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem "
            "-days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost "
            "-addext basicConstraints=critical,CA:FALSE 2>/dev/null && cat cert.pem key.pem > both.pem",
            shell=True, cwd=path, check=True)
        files = self.path / "files"
        files.mkdir()
        for name, mebibytes in (("1m", 1), ("100m", 100)):
            with open(files / name, "wb") as file:
                for _ in range(mebibytes):
                    file.write(b"x" * (1 << 20))
        # nginx's worker may be another user.
        self.path.chmod(0o755)

    def spawn(self, cores, *command):
        cores = ",".join(map(str, cores))
        with open(self.path / f"{pathlib.Path(command[0]).name}.log", "ab") as log:
            return subprocess.Popen(["taskset", "-c", cores, *map(str, command)], cwd=self.path, stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log)


class Process:
    """A running program with all its children."""

    def __init__(self, process, name, plain, secure=None):
        self.process, self.name, self.plain, self.secure = process, name, plain, secure

    def wait_ready(self, folder, port):
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.02)
        self.stop()
        logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in folder.path.glob("*.log"))
        raise RuntimeError(f"{self.name} doesn't listen on {port}:\n{logs}")

    def tree(self):
        found = [str(self.process.pid)]
        for parent in found:
            for path in glob.glob(f"/proc/{parent}/task/*/children"):
                found += pathlib.Path(path).read_text().split()
        return found

    def threads_ns(self):
        """CPU time of each thread, user and system, as the kernel accounts for it."""
        times = {}
        for pid in self.tree():
            for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
                try:
                    times[path] = int(pathlib.Path(path).read_text().split()[0])
                except OSError:
                    pass  # It has just ended.
        return times

    def cpu_ns(self):
        return sum(self.threads_ns().values())

    def memory_bytes(self):
        """The part of the machine's memory that is this tree's (PSS)."""
        total = 0
        for pid in self.tree():
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total * 1024

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            # A second signal is what makes tidegate hurry.
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_origins(folder):
    (folder.path / "origin.conf").write_text(fill(ORIGIN, dir=folder.path))
    nginx = Process(folder.spawn([folder.origin_core], folder.programs["nginx"], "-p", folder.path, "-c", "origin.conf"),
                    "origin", HTTP[0], ORIGIN_TLS)
    addresses = [argument for kind, ports in (("--grpc", GRPC), ("--websocket", WEBSOCKET)) for port in ports
                 for argument in (kind, f"127.0.0.1:{port}")]
    ours = Process(folder.spawn([folder.origin_core], folder.programs["load"], "origin", *addresses), "origins", GRPC[0])
    return [nginx.wait_ready(folder, HTTP[0]), ours.wait_ready(folder, GRPC[0])]


# In the order of tables and charts. "guided" is the build of benches/pgo, "before" another one, "unguarded" the same with
# less.
OWN = ["tidegate", "guided", "unguarded", "before"]
NAMES = [*OWN, "nginx", "haproxy", "envoy", "pingora", "relay"]
# Of which only the CPU time is measured.
CPU_ALONE = ["guided", "relay"]
TITLES = {"tidegate": "tidegate", "guided": "tidegate, guided", "unguarded": "tidegate, unguarded",
          "before": "tidegate, before", "nginx": "nginx", "haproxy": "HAProxy", "envoy": "Envoy", "pingora": "Pingora", "relay": "relay"}
PEERS = ["nginx", "haproxy", "envoy", "pingora"]


def start(name, folder, workers=1, services=1):
    """Starts one, with so many workers and services, and returns once it listens."""
    at = NAMES.index(name) + (20 if services > 1 else 0) + (10 if workers > 1 else 0)
    ports = {"plain": 19200 + at, "secure": 19240 + at, "admin": 19280 + at}
    cores = [folder.proxy_core] if workers == 1 else folder.two_cores
    place = dict(ports, dir=folder.path, workers=workers, name=f"{name}-{workers}-{services}")
    program = folder.programs["tidegate" if name == "unguarded" else "load" if name == "relay" else name]
    command = COMMANDS[name](folder, place, services)
    process = Process(folder.spawn(cores, program, *command), name, ports["plain"], ports["secure"])
    return process.wait_ready(folder, ports["plain"])


def nginx(folder, place, services):
    listen = fill(NGINX_LISTEN, **place)
    if services == 1:
        servers = f"server {{ {listen} {NGINX_SERVER} }}"
    else:
        again = fill("listen 127.0.0.1:{plain};", **place)
        servers = "\n".join(f"server {{ {again if n else listen} server_name shop{n}.test; {NGINX_LOCATION} }}"
                            for n in range(services))
    file = written(folder, place, "conf", NGINX, servers=servers)
    return ["-p", folder.path, "-c", file]


def haproxy(folder, place, services):
    routes = ""
    if services > 1:
        hosts = folder.path / "hosts.map"
        hosts.write_text("".join(f"shop{number}.test known\n" for number in range(services)))
        routes = f"http-request return status 404 unless {{ req.hdr(host),lower,map({hosts}) -m found }}"
    return ["-db", "-f", written(folder, place, "cfg", HAPROXY, routes=routes)]


def envoy(folder, place, services):
    def cluster(name, port, protocol=""):
        return fill(ENVOY_CLUSTER, name=name, port=port, protocol=protocol)

    def host(name, domain):
        return f'            - {{ name: {name}, domains: ["{domain}"], routes: {ENVOY_ROUTES if services == 1 else ENVOY_SHORT} }}\n'

    pairs = [("", HTTP, ""), ("grpc_", GRPC, ENVOY_HTTP2), ("ws_", WEBSOCKET, "")]
    clusters = "".join(cluster(f"{prefix}{name}", port, protocol) for prefix, ports, protocol in pairs
                       for name, port in zip(("blue", "canary"), ports))
    hosts = host("any", "*") if services == 1 else "".join(
        host(f"shop{number}", f"shop{number}.test") for number in range(services))
    manager = fill(ENVOY_MANAGER, hosts=hosts)
    file = written(folder, place, "yaml", ENVOY, manager=manager, clusters=clusters)
    return ["--concurrency", place["workers"], "--disable-hot-restart", "-l", "warning", "-c", file]


ENVOY_SHORT = ENVOY_ROUTES.replace("\n", " ")


def tidegate(folder, place, services, settings=""):
    def service(name, ports, routes="", protocol=""):
        return fill(TIDEGATE_SERVICE, service=name, blue=ports[0], canary=ports[1], routes=routes, protocol=protocol,
                    settings=settings)

    if services == 1:
        parts = [service("shop", HTTP), service("grpc", GRPC, 'routes = [{ path = "/bench.Echo" }]', 'protocol = "h2"'),
                 service("ws", WEBSOCKET, 'routes = [{ path = "/ws" }]')]
    else:
        parts = [service(f"shop{n}", HTTP, f'routes = [{{ host = "shop{n}.test" }}]') for n in range(services)]
    return ["run", "--config", written(folder, place, "toml", TIDEGATE + "".join(parts))]


def pingora(folder, place, services):
    def pair(ports):
        return [f"127.0.0.1:{port}" for port in ports]

    return ["--plain", f"127.0.0.1:{place['plain']}", "--secure", f"127.0.0.1:{place['secure']}", "--cert",
            folder.path / "cert.pem", "--key", folder.path / "key.pem", "--workers", place["workers"], "--http", *pair(HTTP),
            "--grpc", *pair(GRPC), "--websocket", *pair(WEBSOCKET), "--hosts", 0 if services == 1 else services]


COMMANDS = {
    "tidegate": tidegate,
    "unguarded": lambda folder, place, services: tidegate(folder, place, services, UNGUARDED),
    "before": tidegate,
    "guided": tidegate,
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "pingora": pingora,
    "relay": lambda folder, place, services: ["relay", f"127.0.0.1:{place['plain']}", f"127.0.0.1:{HTTP[0]}"],
}


def written(folder, place, ending, text, **parts):
    file = folder.path / f"{place['name']}.{ending}"
    file.write_text(fill(text, **parts, **place))
    return file


def fill(text, **parts):
    """Puts parts where their names stand in braces; other braces are the text's own."""
    for name, part in parts.items():
        text = text.replace("{" + name + "}", str(part))
    return text


def find(name, *places):
    """A program, in places of our own or on the path, root's included."""
    for place in places:
        if place and pathlib.Path(place).is_file():
            return str(pathlib.Path(place).resolve())
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")

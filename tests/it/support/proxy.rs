//! The proxy as its users run it: the real binary with a file of its own, watched through its log and its admin API.

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Pair, Upstream, Wire, eventually};

/// The unit of times in /proc: Linux shows a hundred a second on every architecture of today.
const TICK: Duration = Duration::from_millis(10);

/// How a proxy shall be started.
pub struct Setup {
    folder: TempDir,
    state_dir: String,
    workers: usize,
    /// Of the TLS listener; without any there is none.
    pairs: Vec<(String, String)>,
    top: String,
    /// More keys of `[admin]`.
    admin: String,
    settings: String,
    /// What the command is run by.
    wrapper: Vec<String>,
}

impl Setup {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("there is room for temporary files");
        let (top, admin, settings) = Default::default();
        let state_dir = "state".to_owned();
        Self { folder, state_dir, workers: 1, pairs: Vec::new(), top, admin, settings, wrapper: Vec::new() }
    }

    /// One unless said otherwise, so that what depends on chance doesn't.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Uses the state of another proxy, which must have ended.
    pub fn state_dir(mut self, path: &str) -> Self {
        path.clone_into(&mut self.state_dir);
        self
    }

    /// Adds a certificate to the TLS listener.
    pub fn certificate(mut self, pair: &Pair) -> Self {
        let name = format!("listener-{}", self.pairs.len());
        let files = (format!("{name}.pem"), format!("{name}.key"));
        self = self.file(&files.0, &pair.cert).file(&files.1, &pair.key);
        self.pairs.push(files);
        self
    }

    /// Puts a file next to proxy.toml.
    pub fn file(self, name: &str, content: &str) -> Self {
        fs::write(self.folder.path().join(name), content).expect("the folder is ours");
        self
    }

    /// Adds a line of top-level keys.
    pub fn top(mut self, line: &str) -> Self {
        writeln!(self.top, "{line}").expect("a string takes text");
        self
    }

    /// Adds a line to `[admin]`.
    pub fn admin(mut self, line: &str) -> Self {
        writeln!(self.admin, "{line}").expect("a string takes text");
        self
    }

    /// Runs the proxy by another command, which must become it.
    pub fn run_by(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// The folder of proxy.toml.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds tables to proxy.toml: services, timeouts and whatever else.
    pub fn settings(mut self, text: &str) -> Self {
        writeln!(self.settings, "{text}").expect("a string takes text");
        self
    }

    /// Adds a service `shop` of one backend `blue`, with more keys for the backend.
    pub fn backend(self, urls: &[String], more: &str) -> Self {
        self.settings(&format!("[services.shop.backends.blue]\nweight = 1\nendpoints = {urls:?}\n{more}"))
    }

    /// Has no request wait for an endpoint that refuses connections.
    pub fn impatient(self) -> Self {
        self.settings("[timeouts]\nrestart_wait = \"0s\"")
    }

    /// Starts it, and returns once it is ready.
    pub async fn start(self) -> Proxy {
        let config = self.folder.path().join("proxy.toml");
        fs::write(&config, self.text()).expect("the folder is ours");
        let mut command = self.wrapper.clone();
        command.push(env!("CARGO_BIN_EXE_tidegate").to_owned());
        let mut process = Command::new(&command[0])
            .args(&command[1..])
            .args(["run", "--workers", &self.workers.to_string(), "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.folder.path().join("stdout")).expect("the folder is ours"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let log = Log::follow(process.stderr.take().expect("stderr is piped"));
        let mut proxy = Proxy { setup: self, process, log };
        let Proxy { process, log, .. } = &mut proxy;
        eventually("the proxy is ready", || {
            let exited = process.try_wait().expect("the process is ours");
            assert!(exited.is_none(), "the proxy ended instead of starting:\n{}", log.text());
            log.find("ready").is_some()
        })
        .await;
        proxy
    }

    /// The whole of proxy.toml.
    fn text(&self) -> String {
        let pairs = self.pairs.iter().map(|(cert, key)| format!("{{ cert = {cert:?}, key = {key:?} }}"));
        let pairs = pairs.collect::<Vec<_>>().join(", ");
        let secure = match self.pairs.len() {
            0 => String::new(),
            _ => format!("[[listeners]]\naddress = \"127.0.0.1:0\"\ntls = [{pairs}]\n"),
        };
        let Self { state_dir, top, admin, settings, .. } = self;
        format!(
            "state_dir = {state_dir:?}\n{top}
[log]\nformat = \"json\"\nfilter = \"info,tidegate=debug\"
[admin]\naddress = \"127.0.0.1:0\"\n{admin}
[[listeners]]\naddress = \"127.0.0.1:0\"\n{secure}{settings}"
        )
    }
}

/// A running proxy; killed when dropped, and a failing test shows its log.
pub struct Proxy {
    setup: Setup,
    process: Child,
    log: Log,
}

impl Proxy {
    /// In front of one HTTP/1 endpoint, with everything at its default.
    pub async fn before(upstream: &Upstream) -> Self {
        Setup::new().backend(&[upstream.url()], "").start().await
    }

    /// Where it listens without TLS.
    pub fn http(&self) -> SocketAddr {
        self.listening(false)
    }

    /// Where it listens with TLS.
    pub fn https(&self) -> SocketAddr {
        self.listening(true)
    }

    fn listening(&self, tls: bool) -> SocketAddr {
        let lines = self.log.lines();
        let line = lines.iter().find(|line| line["message"] == "listening" && line["tls"] == tls);
        address(&line.expect("such a listener is configured")["address"])
    }

    pub fn admin(&self) -> SocketAddr {
        address(&self.log.find("ready").expect("it is ready")["admin"])
    }

    /// A connection without TLS.
    pub async fn connect(&self) -> Wire {
        Wire::connect(self.http()).await
    }

    /// One request on a connection of its own; the text is the whole head.
    pub async fn exchange(&self, request: &str) -> Answer {
        self.connect().await.exchange(request).await
    }

    /// `GET target` for `shop.test` on a connection of its own.
    pub async fn fetch(&self, target: &str) -> Answer {
        self.exchange(&format!("GET {target} HTTP/1.1\r\nhost: shop.test\r\n\r\n")).await
    }

    /// The sum of a count's samples whose labels contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> u64 {
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = Wire::connect(self.admin()).await.exchange(request).await;
        assert_eq!(answer.status(), 200);
        let samples = answer.text().lines().filter(|line| !line.starts_with('#') && line.contains(label));
        let values = samples.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<u64>().expect("a count is a number"))
        });
        values.sum()
    }

    /// Waits until a metric is `wanted`: what is counted follows what is seen of it by a moment.
    pub async fn metric_becomes(&self, name: &str, label: &str, wanted: u64) {
        self.metric_until(name, label, &format!("become {wanted}"), |value| {
            // Said at once: a count never comes back.
            assert!(value <= wanted || !name.ends_with("_total"), "{name} {label} is {value}, more than {wanted}");
            value == wanted
        })
        .await;
    }

    /// Waits until a counter that goes on is at least `wanted`.
    pub async fn metric_reaches(&self, name: &str, label: &str, wanted: u64) {
        self.metric_until(name, label, &format!("reach {wanted}"), |value| value >= wanted).await;
    }

    async fn metric_until(&self, name: &str, label: &str, what: &str, is_there: impl Fn(u64) -> bool) {
        let start = Instant::now();
        loop {
            let value = self.metric(name, label).await;
            if is_there(value) {
                return;
            }
            assert!(start.elapsed() < super::PATIENCE, "waited for {name} {label} to {what}: it is {value}");
            tokio::time::sleep(super::POLL_INTERVAL).await;
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is ours");
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> ExitStatus {
        let mut exited = None;
        let process = &mut self.process;
        eventually("the proxy ends", || {
            exited = process.try_wait().expect("the process is ours");
            exited.is_some()
        })
        .await;
        exited.expect("it has ended")
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("the process is ours").is_some()
    }

    /// Physical memory in use.
    pub fn memory_kb(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a size is a number")
    }

    /// Time on any processor so far.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("it runs");
        let (_, after_name) = stat.rsplit_once(") ").expect("the name is in parentheses");
        let ticks =
            after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u32>().expect("ticks are a number"));
        ticks.sum::<u32>() * TICK
    }

    /// What it logged so far, by line.
    pub fn log(&self) -> Vec<Value> {
        self.log.lines()
    }

    /// The folder of proxy.toml.
    pub fn folder(&self) -> &Path {
        self.setup.folder.path()
    }

    /// Its standard output.
    pub fn stdout(&self) -> PathBuf {
        self.folder().join("stdout")
    }

    /// Writes proxy.toml anew with other settings; SIGHUP makes them felt.
    pub fn rewrite(&mut self, settings: &str) {
        settings.clone_into(&mut self.setup.settings);
        // Whole at every moment, as editors write files: a reload may be under way.
        let whole = self.folder().join("proxy.toml.new");
        fs::write(&whole, self.setup.text()).expect("the folder is ours");
        fs::rename(whole, self.folder().join("proxy.toml")).expect("the folder is ours");
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("---- the proxy's log\n{}", self.log.text());
        }
    }
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().and_then(|text| text.parse().ok()).expect("an address is logged")
}

/// The lines on stderr, as they come.
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn follow(stderr: ChildStderr) -> Self {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line));
        });
        Self(lines)
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }

    fn lines(&self) -> Vec<Value> {
        self.0.lock().unwrap().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn find(&self, message: &str) -> Option<Value> {
        self.lines().into_iter().find(|line| line["message"] == message)
    }
}

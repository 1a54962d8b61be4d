//! The access log: one JSON object a line, written by a thread of its own.
//!
//! A worker formats lines into its own buffer and hands the buffer over when it is large or a tick has passed.
//! The queue is bounded: when the disk or the pipe can't keep up, whole buffers are dropped and their lines
//! counted, and requests never wait.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::warn;

use super::ProcessMetrics;
use crate::config::AccessLogOutput;

/// A worker hands its buffer over at this size, or at the next tick.
const BUFFER_BYTES: usize = 32 * 1024;
/// Buffers waiting for the writer; with [`BUFFER_BYTES`], 8 MiB at most.
const QUEUE_BUFFERS: usize = 256;
/// How long the end of the process waits for the last lines.
const FINISH_LIMIT: Duration = Duration::from_secs(3);

/// What happened to one request. Absent values are left out of the line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct AccessLine<'a> {
    /// RFC 3339, UTC, when the request began.
    pub time: String,
    pub client: IpAddr,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    pub protocol: &'a str,
    pub method: &'a str,
    pub host: &'a str,
    /// With the query, as received.
    pub path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<&'a str>,
    /// The backend in whose place this one answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected: Option<&'a str>,
    /// How often an endpoint was asked, where it was more than once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<std::net::SocketAddr>,
    /// Absent when the client left before there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why tidegate itself answered, or broke off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
    pub duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<f64>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// SHA-256 of the certificate that the client showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<&'a str>,
}

/// A worker's end.
#[derive(Debug)]
pub struct AccessLog {
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    queue: SyncSender<Vec<u8>>,
    process: Arc<ProcessMetrics>,
}

impl AccessLog {
    pub fn write(&self, line: &AccessLine<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        serde_json::to_writer(&mut *buffer, line).expect("a flat struct of strings and numbers is JSON");
        buffer.push(b'\n');
        self.lines.set(self.lines.get() + 1);
        if buffer.len() >= BUFFER_BYTES {
            drop(buffer);
            self.flush();
        }
    }

    /// Hands over what there is. Call it every tick.
    pub fn flush(&self) {
        let lines = self.lines.take();
        if lines == 0 {
            return;
        }
        let full = self.buffer.replace(Vec::with_capacity(BUFFER_BYTES));
        if self.queue.try_send(full).is_err() {
            self.process.access_log_dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The thread that writes, and the way to give workers their ends.
#[derive(Debug)]
pub struct AccessLogWriter {
    queue: SyncSender<Vec<u8>>,
    process: Arc<ProcessMetrics>,
    reopen: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl AccessLogWriter {
    /// Opens the output and starts the thread; `None` when the log is off.
    ///
    /// # Errors
    /// When the file can't be opened for appending.
    pub fn start(output: &AccessLogOutput, process: Arc<ProcessMetrics>) -> io::Result<Option<Self>> {
        let target = match output {
            AccessLogOutput::Off => return Ok(None),
            AccessLogOutput::Stdout => Target::Stdout(io::stdout()),
            AccessLogOutput::File(path) => Target::File(open(path)?, path.clone()),
        };
        let (queue, buffers) = sync_channel(QUEUE_BUFFERS);
        let reopen = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("tidegate-access-log".to_owned()).spawn({
            let (reopen, process) = (Arc::clone(&reopen), Arc::clone(&process));
            move || write_all(target, &buffers, &reopen, &process)
        })?;
        Ok(Some(Self { queue, process, reopen, thread }))
    }

    /// An end for one worker.
    #[must_use]
    pub fn worker(&self) -> AccessLog {
        AccessLog {
            buffer: RefCell::new(Vec::with_capacity(BUFFER_BYTES)),
            lines: Cell::new(0),
            queue: self.queue.clone(),
            process: Arc::clone(&self.process),
        }
    }

    /// Opens the file anew before the next write, so that log rotation can rename the old one first.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Waits until everything handed over is written, but not for an output that stands still. All workers' ends must
    /// be gone.
    pub fn finish(self) {
        drop(self.queue);
        let begun = Instant::now();
        while !self.thread.is_finished() {
            if begun.elapsed() > FINISH_LIMIT {
                return warn!("the access log's output takes nothing; its last lines are lost");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.thread.join().is_err() {
            warn!("the access log's thread ended early");
        }
    }
}

enum Target {
    Stdout(io::Stdout),
    File(File, PathBuf),
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_all(mut target: Target, buffers: &Receiver<Vec<u8>>, reopen: &AtomicBool, process: &ProcessMetrics) {
    let mut failing = false;
    for buffer in buffers {
        if let Target::File(file, path) = &mut target
            && reopen.swap(false, Ordering::Relaxed)
        {
            match open(path) {
                Ok(reopened) => *file = reopened,
                Err(error) => warn!(path = %path.display(), %error, "the access log can't be opened again"),
            }
        }
        let written = match &mut target {
            Target::Stdout(stdout) => stdout.write_all(&buffer).and_then(|()| stdout.flush()),
            Target::File(file, _) => file.write_all(&buffer),
        };
        if let Err(error) = &written {
            let lines = buffer.iter().filter(|b| **b == b'\n').count() as u64;
            process.access_log_dropped.fetch_add(lines, Ordering::Relaxed);
            if !failing {
                warn!(%error, "the access log can't be written; its lines are dropped until it can");
            }
        }
        failing = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str) -> AccessLine<'_> {
        AccessLine {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            client: [127, 0, 0, 1].into(),
            request_id: "1",
            trace_id: None,
            protocol: "HTTP/1.1",
            method: "GET",
            host: "shop.test",
            path,
            service: Some("shop"),
            backend: None,
            selected: None,
            attempts: None,
            endpoint: None,
            status: Some(200),
            error: None,
            duration_ms: 1.5,
            first_byte_ms: None,
            received_bytes: 0,
            sent_bytes: 5,
            client_cert: None,
            user_agent: None,
        }
    }

    #[test]
    fn lines_are_json_whatever_the_client_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let process = Arc::new(ProcessMetrics::new(1));
        let writer = AccessLogWriter::start(&AccessLogOutput::File(path.clone()), process).unwrap().unwrap();
        let log = writer.worker();
        log.write(&line("/a\"\n\u{1b}[31m{\\"));
        log.write(&line("/b"));
        drop(log);
        writer.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        let paths: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(paths[0]["path"], "/a\"\n\u{1b}[31m{\\");
        assert_eq!(paths[1]["path"], "/b");
        assert_eq!(paths[1].get("backend"), None);
    }

    #[test]
    fn a_writer_that_stands_still_costs_lines_and_not_memory() {
        let process = Arc::new(ProcessMetrics::new(1));
        let (queue, _nobody_reads) = sync_channel(1);
        let log = AccessLog { buffer: RefCell::default(), lines: Cell::new(0), queue, process: Arc::clone(&process) };
        for _ in 0..3 {
            log.write(&line("/x"));
            log.flush();
        }
        assert_eq!(process.access_log_dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let process = Arc::new(ProcessMetrics::new(1));
        let writer = AccessLogWriter::start(&AccessLogOutput::File(path.clone()), process).unwrap().unwrap();
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        writer.reopen();
        let log = writer.worker();
        log.write(&line("/after"));
        drop(log);
        writer.finish();
        assert!(std::fs::read_to_string(&path).unwrap().contains("/after"));
    }
}

//! What tidegate says about itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A connection to its API.
#[derive(Debug)]
pub(crate) struct Admin {
    stream: BufReader<TcpStream>,
}

impl Admin {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The candidate's effective weight is 0.
    pub(crate) fn is_drained(&mut self) -> io::Result<bool> {
        let view = self.get("/v1/services/shop")?;
        let backends = view["backends"].as_array().cloned().unwrap_or_default();
        let canary = backends.iter().find(|backend| backend["name"] == "canary");
        Ok(canary.and_then(|canary| canary["weight"]["effective"].as_f64()) == Some(0.0))
    }

    /// And it stays there until somebody says otherwise.
    pub(crate) fn is_drained_for_good(&mut self) -> io::Result<bool> {
        let view = self.get("/v1/services/shop")?;
        let backends = view["backends"].as_array().cloned().unwrap_or_default();
        let canary = backends.iter().find(|backend| backend["name"] == "canary");
        Ok(canary.is_some_and(|canary| canary["drain"].is_object() && canary["drain"]["until"].is_null()))
    }

    /// What is in its history, oldest first.
    pub(crate) fn events(&mut self) -> io::Result<Vec<Value>> {
        let page = self.get("/v1/events?limit=100")?;
        Ok(page["events"].as_array().cloned().unwrap_or_default())
    }

    fn get(&mut self, path: &str) -> io::Result<Value> {
        self.stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())?;
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        serde_json::from_slice(&body).map_err(io::Error::other)
    }
}

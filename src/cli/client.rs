//! Calls of the admin API of a running proxy.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::args::AdminArgs;
use super::{CliError, Exit, Reader};
use crate::admin::view::ErrorView;

/// A call that takes longer is given up.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

type CallError = Box<dyn std::error::Error + Send + Sync>;

/// The admin API of one running proxy.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: String,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(admin: &AdminArgs) -> Self {
        let address = admin.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { address, token: admin.token.clone() }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, CliError> {
        self.call(Method::PUT, path, body.into()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, CliError> {
        self.call(Method::POST, path, body.into()).await
    }

    /// Says something that has no answer but that it was heard.
    pub(crate) async fn tell(&self, path: &str, body: Vec<u8>) -> Result<(), CliError> {
        self.answer(Method::POST, path, body.into()).await.map(|_| ())
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, CliError> {
        let answer = self.answer(method, path, body).await?;
        serde_json::from_slice(&answer)
            .map_err(|e| CliError::failed(format!("{} answered something else than tidegate would: {e}", self.address)))
    }

    async fn answer(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CliError> {
        let exchange = async {
            let response = self.send(method, path, body, "application/json").await?;
            let status = response.status();
            Ok::<_, CallError>((status, response.into_body().collect().await?.to_bytes()))
        };
        let (status, answer) = tokio::time::timeout(CALL_TIMEOUT, exchange)
            .await
            .map_err(|_| self.unreachable("no answer within 10 s"))?
            .map_err(|error| self.unreachable(&error.to_string()))?;
        if status.is_success() { Ok(answer) } else { Err(self.told(status, &answer)) }
    }

    /// What an answer says that is none.
    fn told(&self, status: StatusCode, answer: &[u8]) -> CliError {
        let told = serde_json::from_slice::<ErrorView>(answer).map(|view| view.error);
        CliError::failed(told.unwrap_or_else(|_| format!("{} answered {status}", self.address)))
    }

    /// Follows a stream of server-sent events; each event's data is given to `take`, until it has had enough or the
    /// stream ends. Returns whether it had enough.
    pub(crate) async fn follow(
        &self,
        path: &str,
        mut take: impl FnMut(&str) -> Result<Reader, CliError>,
    ) -> Result<Reader, CliError> {
        let sent = self.send(Method::GET, path, Bytes::new(), "text/event-stream");
        let sent = tokio::time::timeout(CALL_TIMEOUT, sent).await;
        let response = sent
            .map_err(|_| self.unreachable("no answer within 10 s"))?
            .map_err(|error| self.unreachable(&error.to_string()))?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let answer = response.into_body().collect().await.map_err(|e| self.unreachable(&e.to_string()))?.to_bytes();
            return Err(self.told(status, &answer));
        }
        let (mut body, mut unread) = (response.into_body(), Vec::new());
        while let Some(Ok(frame)) = body.frame().await {
            unread.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(data) = line.trim_end().strip_prefix("data: ")
                    && take(data)? == Reader::Gone
                {
                    return Ok(Reader::Gone);
                }
            }
        }
        Ok(Reader::There)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: &str,
    ) -> Result<Response<Incoming>, CallError> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(path).header(HOST, &self.address).header(ACCEPT, accept);
        request = request.header("tidegate-by", caller());
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }

    fn unreachable(&self, why: &str) -> CliError {
        let address = &self.address;
        let text = format!(
            "no tidegate answers at {address}: {why}\n  hint: is it running, with [admin] in its proxy.toml? \
             --admin or TIDEGATE_ADMIN names another address"
        );
        CliError { exit: Exit::Unreachable, text }
    }
}

/// Who is at the keyboard, for the history.
fn caller() -> HeaderValue {
    let user = ["TIDEGATE_BY", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let user = user.filter(|user| !user.is_empty()).unwrap_or_else(|| "somebody".to_owned());
    HeaderValue::try_from(format!("{user} (cli)")).unwrap_or(HeaderValue::from_static("cli"))
}

/// A name as part of a path.
pub(super) fn segment(name: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    name.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

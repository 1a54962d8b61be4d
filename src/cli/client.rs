//! Calls of the admin API of a running proxy.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::args::AdminArgs;
use super::{CliError, Exit};
use crate::admin::view::ErrorView;

/// A call that takes longer is given up.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

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

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, CliError> {
        self.call(Method::PUT, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, CliError> {
        let (status, answer) = tokio::time::timeout(CALL_TIMEOUT, self.exchange(method, path, body))
            .await
            .map_err(|_| self.unreachable("no answer within 10 s"))?
            .map_err(|error| self.unreachable(&error.to_string()))?;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|e| {
                CliError::failed(format!("{} answered something else than tidegate would: {e}", self.address))
            });
        }
        let told = serde_json::from_slice::<ErrorView>(&answer).map(|view| view.error);
        Err(CliError::failed(told.unwrap_or_else(|_| format!("{} answered {status}", self.address))))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.address);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
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

/// A name as part of a path.
pub(super) fn segment(name: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    name.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

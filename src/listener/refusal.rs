//! What is refused before it is a request: heads that hyper can't or won't read, and frames that make no sense. No
//! exchange knows of them, so they are counted and logged here.

use std::error::Error;
use std::time::SystemTime;

use crate::observe::{AccessLine, ConnectionError};
use crate::proxy::Client;

/// Counts and logs the end of a connection; `status` is what the client was told.
pub(super) fn record(client: &Client, protocol: &str, cause: ConnectionError, status: Option<u16>) {
    let cell = client.worker.cell();
    cell.connection_errors[cause as usize].add(1);
    match status {
        None => {}
        Some(400) => cell.refused_bad_request.add(1),
        Some(408) => cell.refused_timeout.add(1),
        Some(431) => cell.refused_head_too_large.add(1),
        Some(_) => cell.refused_other.add(1),
    }
    if let Some(log) = &client.worker.access_log {
        log.write(&AccessLine {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            client: client.address.ip(),
            protocol,
            method: "",
            host: "",
            path: "",
            service: None,
            backend: None,
            selected: None,
            attempts: None,
            endpoint: None,
            status,
            error: Some(cause.label()),
            duration_ms: 0.0,
            first_byte_ms: None,
            received_bytes: 0,
            sent_bytes: 0,
            request_id: "",
            trace_id: None,
            client_cert: client.certificate(),
            user_agent: None,
        });
    }
}

/// Why hyper ended an HTTP/1 connection, and with what status; `None` when the client just left.
pub(super) fn http1(error: &hyper::Error) -> Option<(ConnectionError, Option<u16>)> {
    if error.is_parse_too_large() {
        // hyper tells the two apart in words only.
        let status = if error.to_string().contains("URI") { 414 } else { 431 };
        return Some((ConnectionError::HeadTooLarge, Some(status)));
    }
    // It answers no 400 to the preface of another version.
    let status = (!error.is_parse_version_h2()).then_some(400);
    error.is_parse().then_some((ConnectionError::MalformedHead, status))
}

/// Why h2 ended a connection; `None` when the client did.
pub(super) fn http2(error: &hyper::Error) -> Option<ConnectionError> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            let ours = error.is_library() && !error.is_io();
            return ours.then(|| match error.reason() {
                Some(h2::Reason::ENHANCE_YOUR_CALM) => ConnectionError::Flood,
                _ => ConnectionError::Protocol,
            });
        }
        source = cause.source();
    }
    None
}

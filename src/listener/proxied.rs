//! The PROXY header before everything else of a connection, TLS included.

use std::net::SocketAddr;

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::connection::unless_closed;
use crate::model::{Ends, ProxyHeader, lies_in, read_proxy_header};
use crate::observe::ConnectionError;
use crate::worker::{Lifeline, Worker};

/// Whether `peer` may speak for others.
pub(super) fn is_trusted(networks: &[IpNet], peer: SocketAddr) -> bool {
    lies_in(peer.ip(), networks)
}

/// Reads the header and not a byte more. `Ok(None)`: the connection is the sender's own. `Err(None)`: it closed, or
/// was told to close, before anything came.
pub(super) async fn read<T: AsyncRead + Unpin>(
    stream: &mut T,
    worker: &Worker,
    lifeline: &Lifeline,
) -> Result<Option<Ends>, Option<ConnectionError>> {
    let limit = worker.view().snapshot.timeouts.header_read;
    let reading = unless_closed(lifeline, header(stream));
    match worker.timers.timeout(limit, reading).await {
        Ok(Some(read)) => read,
        Ok(None) => Err(None),
        Err(_elapsed) => Err(Some(ConnectionError::ProxyTimeout)),
    }
}

async fn header<T: AsyncRead + Unpin>(stream: &mut T) -> Result<Option<Ends>, Option<ConnectionError>> {
    let mut bytes = Vec::with_capacity(128);
    loop {
        let more = match read_proxy_header(&bytes) {
            Ok(ProxyHeader::Read(ends)) => return Ok(ends),
            Ok(ProxyHeader::Needs(more)) => more,
            Err(error) => {
                tracing::debug!(%error, "no PROXY header");
                return Err(Some(ConnectionError::ProxyHeader));
            }
        };
        // The reader bounds what it asks for.
        let mut part = (&mut *stream).take(more as u64);
        if part.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            continue;
        }
        // Whoever looks whether the port is open sends nothing.
        return Err((!bytes.is_empty()).then_some(ConnectionError::ProxyHeader));
    }
}

//! How clients speak to a proxy.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::load::connect;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// HTTP/1.1.
    Plain,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
    /// HTTP/2 over TLS 1.3.
    H2,
}

/// TLS with one trusted certificate.
#[derive(Debug, Clone)]
pub(crate) struct Secure(ClientConfig);

impl Secure {
    pub(crate) fn trusting(cert: &Path) -> io::Result<Self> {
        let pem = fs::read(cert)?;
        let cert = CertificateDer::from_pem_slice(&pem).map_err(io::Error::other)?;
        let mut roots = RootCertStore::empty();
        roots.add(cert).map_err(io::Error::other)?;
        let config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13]);
        Ok(Self(config.with_root_certificates(roots).with_no_client_auth()))
    }

    /// No sessions: each handshake is a full one.
    pub(crate) fn forgetting(mut self) -> Self {
        self.0.resumption = Resumption::disabled();
        self
    }

    /// Sessions of its own.
    pub(crate) fn remembering(mut self) -> Self {
        self.0.resumption = Resumption::in_memory_sessions(1);
        self
    }

    pub(crate) fn speaking(mut self, protocol: &str) -> Connector {
        self.0.alpn_protocols = vec![protocol.into()];
        Connector(TlsConnector::from(Arc::new(self.0)))
    }
}

/// Makes connections that share their sessions.
#[derive(Clone)]
pub(crate) struct Connector(TlsConnector);

impl Connector {
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        self.0.connect(address.ip().into(), connect(address).await?).await
    }
}

//! TLS material read from files: certificates to show to clients, and how to verify endpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;

/// A certificate chain with its private key, as read from two files, and the names it is good for.
#[derive(Debug)]
pub struct CertifiedPair {
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
    pub key: Arc<rustls::sign::CertifiedKey>,
    /// DNS names of the certificate, lower case; a wildcard keeps its `*.`.
    pub dns_names: Vec<String>,
}

/// How endpoints of one backend are spoken to over TLS.
#[derive(Debug)]
pub struct UpstreamTls {
    /// ALPN is set for the backend's protocol.
    pub client: Arc<rustls::ClientConfig>,
    /// Verified, and sent as SNI, instead of the endpoint's own host.
    pub server_name: Option<ServerName<'static>>,
    /// Differs whenever the files behind it, the protocol or the server name differ.
    pub fingerprint: [u8; 32],
}

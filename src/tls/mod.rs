//! TLS material read from files: certificates to show to clients, and how to verify endpoints.
//!
//! Every use of cryptography goes through one provider, never through the process-wide default, so that nothing
//! depends on who installed what first.

mod certified_pair;
mod client_auth;
mod pem_file;
mod roots;
mod server;
#[cfg(test)]
pub(crate) mod testing;
mod upstream;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use certified_pair::CertifiedPair;
pub use client_auth::{ClientAuth, ClientCertificate};
pub use pem_file::TlsFileError;
pub use roots::Roots;
pub use server::ServerTls;
pub use upstream::{UpstreamTls, UpstreamTlsSource};

/// HTTP/1.1 in ALPN.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// HTTP/2 in ALPN.
pub const ALPN_HTTP2: &[u8] = b"h2";

/// aws-lc-rs, shared by everything here.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

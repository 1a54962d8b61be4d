//! Certificates that clients show.

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{Roots, provider};

/// Whose certificates a listener's clients show, and whether they may do without.
#[derive(Debug, Clone)]
pub struct ClientAuth {
    pub ca: PathBuf,
    /// The content of `ca`.
    pub roots: Roots,
    pub required: bool,
}

impl ClientAuth {
    pub(super) fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots.store), provider());
        let builder = if self.required { builder } else { builder.allow_unauthenticated() };
        builder.build().map_err(|error| rustls::Error::General(error.to_string()))
    }
}

/// A certificate that a client has shown, and that was found good.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The value of `Client-Cert` (RFC 9440).
    pub header: HeaderValue,
    /// SHA-256 of the whole, in hexadecimal.
    pub fingerprint: String,
}

impl ClientCertificate {
    #[must_use]
    pub fn new(certificate: &CertificateDer<'_>) -> Self {
        let header = format!(":{}:", STANDARD.encode(certificate));
        let fingerprint = digest(&SHA256, certificate).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { header: HeaderValue::try_from(header).expect("base64 is plain ASCII"), fingerprint }
    }
}

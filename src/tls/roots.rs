//! Whom a backend's certificates must come from: the system's authorities, or those of one file.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::pem_file::{PemFile, TlsFileError};

/// Trusted authorities, and a fingerprint of them.
#[derive(Debug, Clone)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
    pub(super) fingerprint: [u8; 32],
}

impl Roots {
    /// The authorities that this machine trusts. Reads many files, so load it once for all backends.
    ///
    /// # Errors
    /// When not one usable authority is found; single bad files among them are passed over, as other programs do.
    pub fn system() -> Result<Self, TlsFileError> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(found.certs.iter().cloned());
        if added == 0 {
            let reason = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
            return Err(TlsFileError::new(
                Path::new("system certificates"),
                format!("this machine has no trusted authorities{reason}"),
                "install the package ca-certificates, or name a CA file: tls = { ca = \"ca.pem\" }",
            ));
        }
        Ok(Self { store: Arc::new(store), fingerprint: fingerprint(b"system", found.certs) })
    }

    /// The authorities in one PEM file.
    ///
    /// # Errors
    /// When the file is missing, unreadable, not PEM, or holds a certificate that can't be an authority.
    pub fn from_file(path: &Path) -> Result<Self, TlsFileError> {
        let certificates = PemFile::read(path)?.certificates()?;
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(|error| {
                TlsFileError::new(
                    path,
                    format!("a certificate of the file can't be trusted as an authority: {error}"),
                    "`openssl x509 -in FILE -noout -text` shows what the file holds",
                )
            })?;
        }
        Ok(Self { store: Arc::new(store), fingerprint: fingerprint(b"file", certificates) })
    }
}

/// Sorted first: the order in which a folder lists its files means nothing.
fn fingerprint(kind: &[u8], mut certificates: Vec<CertificateDer<'_>>) -> [u8; 32] {
    certificates.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    let mut hash = Hash::new();
    hash.part(kind);
    for certificate in &certificates {
        hash.part(certificate);
    }
    hash.finish()
}

/// SHA-256 over parts, each preceded by its length, so that no two lists of parts read alike.
pub(super) struct Hash(Context);

impl Hash {
    pub(super) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(super) fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Workshop;
    use super::*;

    #[test]
    fn the_systems_authorities_are_found_or_it_is_said_how_to_get_some() {
        match Roots::system() {
            Ok(roots) => assert!(!roots.store.is_empty()),
            Err(error) => assert!(error.to_string().contains("ca-certificates"), "{error}"),
        }
    }

    #[test]
    fn the_order_of_authorities_means_nothing_and_their_content_everything() {
        let shop = Workshop::new();
        let text = |name: &str| std::fs::read_to_string(shop.pair(name, &["a.example"]).0).unwrap();
        let (a, b) = (text("a"), text("b"));
        let roots = |text: String| Roots::from_file(&shop.file("ca.pem", &text)).unwrap().fingerprint;
        let both = roots(format!("{a}{b}"));
        assert_eq!(both, roots(format!("# a comment\n{b}{a}")));
        assert_ne!(both, roots(a));
    }
}

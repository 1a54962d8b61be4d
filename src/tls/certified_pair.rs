//! A certificate chain with its private key: read together, because each is useless with another's other half.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use webpki::{EndEntityCert, KeyUsage};

use super::pem_file::{PemFile, TlsFileError};
use super::provider;

/// 9999-12-31T23:59:59Z, what RFC 5280 section 4.1.2.5 writes for "no end"; one second after it, everything is expired.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

/// A certificate chain with its private key, as read from two files, and the names it is good for.
#[derive(Debug)]
pub struct CertifiedPair {
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
    pub key: Arc<CertifiedKey>,
    /// DNS names of the certificate, lower case; a wildcard keeps its `*.`.
    pub dns_names: Vec<String>,
}

impl CertifiedPair {
    /// Reads both files and makes sure that they belong together.
    ///
    /// # Errors
    /// When a file is missing, unreadable, not PEM, of an unsupported kind, or the key is another certificate's.
    /// The error names the file to mend.
    pub fn load(cert_path: &Path, key_path: &Path) -> Result<Self, TlsFileError> {
        let chain = PemFile::read(cert_path)?.certificates()?;
        let key = PemFile::read(key_path)?.private_key()?;
        let dns_names = dns_names(cert_path, &chain[0])?;
        let signer = provider().key_provider.load_private_key(key).map_err(|error| {
            TlsFileError::new(
                key_path,
                format!("the private key can't be used: {error}"),
                "RSA (2048 bits or more), ECDSA (P-256, P-384, P-521) and Ed25519 keys work",
            )
        })?;
        let key = CertifiedKey::new(chain, signer);
        check_match(&key, cert_path, key_path)?;
        Ok(Self { cert_path: cert_path.to_owned(), key_path: key_path.to_owned(), key: Arc::new(key), dns_names })
    }

    /// When the certificate stops being valid. `None` when its dates can't be read.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        let certificate = EndEntityCert::try_from(self.key.cert.first()?).ok()?;
        // webpki keeps the dates to itself, but says them when it refuses an expired certificate: dates are
        // checked before anything else, so asking about a time beyond all dates always gets that answer.
        let beyond = UnixTime::since_unix_epoch(END_OF_TIME + Duration::from_secs(1));
        match certificate.verify_for_usage(&[], &[], &[], beyond, KeyUsage::server_auth(), None, None) {
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
            }
            _ => None,
        }
    }

    /// Whether both hold the same chain, and so, as each key matches its certificate, the same key.
    #[must_use]
    pub fn same_material(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

fn dns_names(path: &Path, certificate: &CertificateDer<'_>) -> Result<Vec<String>, TlsFileError> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| {
        TlsFileError::new(
            path,
            format!("the certificate can't be read: {error}"),
            "an X.509 version 3 certificate is wanted; `openssl x509 -in FILE -noout -text` shows what this is",
        )
    })?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

fn check_match(key: &CertifiedKey, cert_path: &Path, key_path: &Path) -> Result<(), TlsFileError> {
    match key.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(TlsFileError::new(
            key_path,
            format!("the private key doesn't belong to the certificate in {}", cert_path.display()),
            "put the server's own certificate first in the file, and use the key it was issued for",
        )),
        Err(error) => Err(TlsFileError::new(
            cert_path,
            format!("the certificate can't be used: {error}"),
            "`openssl x509 -in FILE -noout -text` shows what the file holds",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::Workshop;
    use super::*;

    #[test]
    fn a_pair_knows_its_names_and_its_last_day() {
        let shop = Workshop::new();
        let (cert, key) = shop.pair("a", &["Shop.Example.com", "*.example.org"]);
        let pair = CertifiedPair::load(&cert, &key).unwrap();
        assert_eq!(pair.dns_names, ["shop.example.com", "*.example.org"]);
        assert_eq!(pair.not_after(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800)));
        assert!(pair.same_material(&CertifiedPair::load(&cert, &key).unwrap()));
        let (cert, key) = shop.pair("b", &["shop.example.com", "*.example.org"]);
        assert!(!pair.same_material(&CertifiedPair::load(&cert, &key).unwrap()));
    }

    #[test]
    fn a_pair_that_does_not_belong_together_is_refused() {
        let shop = Workshop::new();
        let (cert, _) = shop.pair("a", &["a.example"]);
        let (_, key) = shop.pair("b", &["b.example"]);
        let error = CertifiedPair::load(&cert, &key).unwrap_err();
        assert_eq!(error.file, key);
        assert!(error.message.starts_with("the private key doesn't belong"), "{error}");
    }

    #[test]
    fn each_unusable_file_says_what_it_is() {
        let shop = Workshop::new();
        let (cert, key) = shop.pair("a", &["a.example"]);
        let said = |cert: &Path, key: &Path| CertifiedPair::load(cert, key).unwrap_err().to_string();
        assert!(said(&shop.path("none.pem"), &key).contains("doesn't exist"));
        assert!(said(&cert, &shop.path("")).contains("this is a folder"));
        assert!(said(&key, &key).contains("are `cert` and `key` swapped?"));
        assert!(said(&cert, &cert).contains("are `cert` and `key` swapped?"));
        assert!(said(&shop.file("empty.pem", ""), &key).contains("no certificate in the file"));
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(said(&cert, &shop.file("locked.pem", locked)).contains("passphrase"));
        let dsa = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(said(&cert, &shop.file("dsa.pem", dsa)).contains("can't be used"));
        let text = fs::read_to_string(&cert).unwrap();
        assert!(said(&shop.file("cut.pem", &text[..text.len() / 2]), &key).contains("cut off"));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(said(&shop.file("garbage.pem", garbage), &key).contains("the certificate can't be read"));
        assert!(said(Path::new("/dev/zero"), &key).contains("larger than 16 MiB"));
    }
}

//! A PEM file, read with a limit, and what can be wrong with it in words for whoever has to mend it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Bundles of every public authority stay below 1 MiB; the limit keeps `/dev/zero` from eating the memory.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What is wrong with a certificate, key or CA file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFileError {
    /// The file to mend.
    pub file: PathBuf,
    pub message: String,
    pub hint: Option<String>,
}

impl TlsFileError {
    pub(super) fn new(file: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { file: file.to_owned(), message: message.into(), hint: Some(hint.into()) }
    }
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TlsFileError {}

/// The bytes of one PEM file.
pub(super) struct PemFile<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> PemFile<'a> {
    pub(super) fn read(path: &'a Path) -> Result<Self, TlsFileError> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Err(error) => Err(unreadable(path, &error)),
            Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => Err(TlsFileError::new(
                path,
                format!("the file is larger than {} MiB", FILE_BYTES_MAX >> 20),
                "certificates and keys are small text files; is this the right path?",
            )),
            Ok(_) => Ok(Self { path, bytes }),
        }
    }

    /// Every certificate of the file, at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let certificates = found.map_err(|error| self.broken(&error))?;
        if certificates.is_empty() {
            let hint = if self.mentions("PRIVATE KEY-----") {
                "it holds a private key; are `cert` and `key` swapped?"
            } else {
                "a certificate is text that starts with -----BEGIN CERTIFICATE-----; for a DER file, convert it: \
                 openssl x509 -inform der -in FILE -out cert.pem"
            };
            return Err(TlsFileError::new(self.path, "there is no certificate in the file", hint));
        }
        Ok(certificates)
    }

    /// The first private key of the file.
    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsFileError> {
        match PrivateKeyDer::from_pem_slice(&self.bytes) {
            Ok(key) => Ok(key),
            Err(pem::Error::NoItemsFound) => Err(self.no_private_key()),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn no_private_key(&self) -> TlsFileError {
        if self.mentions("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            return TlsFileError::new(
                self.path,
                "the private key is locked with a passphrase",
                "store it unlocked, readable only by tidegate: openssl pkey -in FILE -out key.pem",
            );
        }
        let hint = if self.mentions("-----BEGIN CERTIFICATE-----") {
            "it holds a certificate; are `cert` and `key` swapped?"
        } else {
            "a key is text that starts with -----BEGIN PRIVATE KEY----- (or RSA PRIVATE KEY, EC PRIVATE KEY)"
        };
        TlsFileError::new(self.path, "there is no private key in the file", hint)
    }

    fn broken(&self, error: &pem::Error) -> TlsFileError {
        let message = match error {
            pem::Error::MissingSectionEnd { .. } => {
                "the file is cut off: an -----END …----- line is missing".to_owned()
            }
            pem::Error::IllegalSectionStart { .. } => "a -----BEGIN …----- line is malformed".to_owned(),
            pem::Error::Base64Decode(_) => {
                "the text between -----BEGIN …----- and -----END …----- is damaged".to_owned()
            }
            other => format!("the file is not PEM: {other}"),
        };
        TlsFileError::new(self.path, message, "fetch or write the file again; it may have been read half written")
    }

    fn mentions(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> TlsFileError {
    use std::io::ErrorKind;
    let (message, hint) = match error.kind() {
        ErrorKind::NotFound => {
            ("the file doesn't exist".to_owned(), "relative paths start at the folder of the configuration file")
        }
        ErrorKind::PermissionDenied => {
            ("the file may not be read".to_owned(), "let the user that runs tidegate read it (chown, chmod)")
        }
        ErrorKind::IsADirectory => ("this is a folder".to_owned(), "name the PEM file itself"),
        _ => (format!("the file can't be read: {error}"), "name a readable PEM file"),
    };
    TlsFileError::new(path, message, hint)
}

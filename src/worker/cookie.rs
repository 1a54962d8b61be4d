//! The id by which a sticky service knows a client: random, signed, kept by the client in a cookie.
//!
//! `<id>.<signature>`, both base64url: 16 random bytes, and HMAC-SHA-256 over them with a key from the state
//! directory. The signature keeps a client from trying ids until it meets the backend it wants, and keeps made-up
//! ids out of the counts. Nothing in it says which backend the client belongs to.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const ID_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// 22 characters of id, a dot, 43 of signature.
const TEXT_BYTES: usize = 66;

/// A client's id, known to be one we made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId([u8; ID_BYTES]);

impl ClientId {
    /// An id of random bytes.
    #[must_use]
    pub fn new(random: [u8; ID_BYTES]) -> Self {
        Self(random)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The key that signs client ids.
#[derive(Debug)]
pub struct CookieKey(hmac::Key);

impl CookieKey {
    #[must_use]
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The key in `state_dir`, made on first use and readable by its owner only. Copy the file to let several
    /// proxies know each other's clients.
    ///
    /// # Errors
    /// When the file can't be read or made, or isn't 32 bytes long.
    pub fn load(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("cookie.key");
        let mut bytes = [0; KEY_BYTES];
        match fs::File::open(&path) {
            Ok(mut file) => {
                if file.metadata()?.len() != KEY_BYTES as u64 {
                    let text = format!("{} is not {KEY_BYTES} bytes long; remove it to start anew", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                file.read_exact(&mut bytes)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random bytes from the system"))?;
                write_whole(&path, &bytes)?;
            }
            Err(e) => return Err(e),
        }
        Ok(Self::new(&bytes))
    }

    /// The cookie's value for a client.
    #[must_use]
    pub fn sign(&self, id: ClientId) -> String {
        let mut text = String::with_capacity(TEXT_BYTES);
        URL_SAFE_NO_PAD.encode_string(id.0, &mut text);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(hmac::sign(&self.0, &id.0), &mut text);
        text
    }

    /// The client of a cookie's value; `None` unless this key signed it. Compares in constant time.
    #[must_use]
    pub fn verify(&self, value: &str) -> Option<ClientId> {
        if value.len() != TEXT_BYTES {
            return None;
        }
        let (id, signature) = value.split_once('.')?;
        let (mut id_bytes, mut signature_bytes) = ([0; ID_BYTES], [0; 32]);
        // Exact lengths: base64 decodes into the arrays or fails.
        let whole = URL_SAFE_NO_PAD.decode_slice(id, &mut id_bytes) == Ok(ID_BYTES)
            && URL_SAFE_NO_PAD.decode_slice(signature, &mut signature_bytes) == Ok(32);
        hmac::verify(&self.0, &id_bytes, &signature_bytes).ok().filter(|()| whole)?;
        Some(ClientId(id_bytes))
    }
}

/// All or nothing: a half-written key would change every client's id at the next start.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> CookieKey {
        CookieKey::new(&[7; KEY_BYTES])
    }

    #[test]
    fn a_signed_id_is_recognised() {
        let id = ClientId::new([9; ID_BYTES]);
        let value = key().sign(id);
        assert_eq!(value.len(), TEXT_BYTES);
        assert_eq!(key().verify(&value), Some(id));
    }

    #[test]
    fn no_changed_character_goes_unnoticed() {
        let value = key().sign(ClientId::new([9; ID_BYTES]));
        for at in 0..value.len() {
            for other in ['A', 'z', '.', '-'] {
                let mut changed: Vec<char> = value.chars().collect();
                if changed[at] == other {
                    continue;
                }
                changed[at] = other;
                assert_eq!(key().verify(&changed.iter().collect::<String>()), None, "{at} {other}");
            }
        }
        assert_eq!(CookieKey::new(&[8; KEY_BYTES]).verify(&value), None);
        assert_eq!(key().verify(""), None);
        assert_eq!(key().verify(&"\u{e9}".repeat(33)), None);
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let value = CookieKey::load(folder.path()).unwrap().sign(ClientId::new([1; ID_BYTES]));
        assert!(CookieKey::load(folder.path()).unwrap().verify(&value).is_some());
        let mode = fs::metadata(folder.path().join("cookie.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_file_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cookie.key");
        fs::write(&path, b"short").unwrap();
        assert!(CookieKey::load(folder.path()).unwrap_err().to_string().contains("32 bytes"));
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }
}

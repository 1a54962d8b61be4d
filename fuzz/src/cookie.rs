//! The verification of sticky clients' cookies.

use tidegate::worker::{ClientId, CookieKey};

/// An id of 16 bytes, then changes to its cookie: a place and what to put there. And any text.
pub fn cookie(data: &[u8]) {
    let (key, other) = (CookieKey::new(&[7; 32]), CookieKey::new(&[8; 32]));
    if let Some((id, changes)) = data.split_first_chunk() {
        let id = ClientId::new(*id);
        let signed = key.sign(id);
        assert_eq!(key.verify(&signed), Some(id));
        assert_eq!(other.verify(&signed), None, "another key signed it");
        let mut changed = signed.clone().into_bytes();
        for change in changes.chunks_exact(2) {
            let at = usize::from(change[0]) % changed.len();
            changed[at] = change[1];
        }
        if changed != signed.as_bytes() {
            let changed = String::from_utf8_lossy(&changed);
            assert_eq!(key.verify(&changed), None, "{changed} was never signed");
        }
    }
    let text = String::from_utf8_lossy(data);
    if let Some(id) = key.verify(&text) {
        assert_eq!(key.sign(id), text, "a client has one cookie");
    }
}

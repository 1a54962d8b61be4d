//! What proves that a call is ours, and when it was made: the headers of Standard Webhooks, for which receivers find
//! libraries in every language.
//!
//! `webhook-signature: v1,` and the base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`. The id stays
//! the same when a call is made again, so that a receiver can tell; the timestamp doesn't.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Secret;

pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Seconds since 1970.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Before a secret that is written in base64, as the specification has it; others are taken as they are.
const ENCODED_PREFIX: &str = "whsec_";

/// Signs with one secret.
#[derive(Debug)]
pub struct Signer(hmac::Key);

impl Signer {
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let text = secret.expose();
        let decoded = text.strip_prefix(ENCODED_PREFIX).and_then(|encoded| STANDARD.decode(encoded).ok());
        let bytes = decoded.unwrap_or_else(|| text.as_bytes().to_vec());
        Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    }

    /// The signature of one message.
    #[must_use]
    pub fn sign(&self, id: &str, unix_seconds: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{unix_seconds}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }

    pub(super) fn put(&self, headers: &mut HeaderMap, id: &str, unix_seconds: u64, body: &[u8]) {
        let signature = HeaderValue::try_from(self.sign(id, unix_seconds, body));
        headers.insert(SIGNATURE, signature.expect("base64 can stand in a header"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(secret: &str, body: &str) -> String {
        Signer::new(&Secret::new(secret.to_owned())).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body.as_bytes())
    }

    #[test]
    fn a_signature_is_what_the_specifications_own_example_has() {
        let signature = signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn another_body_or_another_secret_is_another_signature() {
        assert_ne!(signed("a secret", "a"), signed("a secret", "b"));
        assert_ne!(signed("a secret", "a"), signed("another", "a"));
        // Not base64, so it is taken as it is.
        assert_ne!(signed("whsec_!", "a"), signed("!", "a"));
    }
}

//! TLS towards clients: the certificate is chosen by the name the client asks for, and sessions outlive reloads.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache,
    StoresServerSessions,
};
use rustls::sign::CertifiedKey;

use super::{ALPN_HTTP1, ALPN_HTTP2, CertifiedPair, ClientAuth, provider};

/// Sessions kept for TLS 1.2 clients that know no tickets; a few hundred bytes each.
const SESSIONS_MAX: usize = 4096;

/// Makes TLS settings for listeners, and holds what lets a returning client skip the full handshake. One per
/// process, so that a reload doesn't make every client start over. The ticket keys change every six hours by
/// themselves.
#[derive(Debug, Clone)]
pub struct ServerTls {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl ServerTls {
    /// With fresh random ticket keys.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn new() -> Result<Self, rustls::Error> {
        Ok(Self { ticketer: Ticketer::new()?, sessions: ServerSessionMemoryCache::new(SESSIONS_MAX) })
    }

    /// TLS 1.2 and 1.3 with ALPN `h2` and `http/1.1`, showing the certificate that names the client's wish: an exact
    /// name, then a wildcard of one label, else the first pair. No pairs: every handshake is refused.
    ///
    /// # Errors
    /// When the cryptography at hand speaks neither version.
    pub fn config(
        &self,
        pairs: &[Arc<CertifiedPair>],
        client_auth: Option<&ClientAuth>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => builder.with_client_cert_verifier(auth.verifier()?),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(pairs)));
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        if client_auth.is_none() {
            config.ticketer = Arc::clone(&self.ticketer);
            config.session_storage = Arc::clone(&self.sessions);
        } else {
            // A session stands for the certificate that began it: one from elsewhere would be no proof, and one from
            // here would outlive the authority's removal.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }
}

/// Certificates by the names they are good for. Of two with the same name, the first whose key the client can use
/// is shown, so RSA and ECDSA can stand side by side.
#[derive(Debug)]
struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Option<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(pairs: &[Arc<CertifiedPair>]) -> Self {
        let mut by_name = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            first: pairs.first().map(|pair| Arc::clone(&pair.key)),
        };
        for pair in pairs {
            for name in &pair.dns_names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut by_name.wildcard, suffix),
                    None => (&mut by_name.exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_default().push(Arc::clone(&pair.key));
            }
        }
        by_name
    }

    /// The certificates that name `host` best; none when none does.
    fn named(&self, host: &str) -> &[Arc<CertifiedKey>] {
        let by_suffix = || host.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix));
        self.exact.get(host).or_else(by_suffix).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls hands the name over in lower case.
        let named = hello.server_name().map_or(&[][..], |host| self.named(host));
        let usable = named.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or(named.first()).or(self.first.as_ref()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::HandshakeKind;
    use rustls::version::TLS12;

    use super::super::testing::{Workshop, handshake, trusting_client};
    use super::*;

    fn load((cert, key): (impl AsRef<Path>, impl AsRef<Path>)) -> Arc<CertifiedPair> {
        Arc::new(CertifiedPair::load(cert.as_ref(), key.as_ref()).unwrap())
    }

    #[test]
    fn the_certificate_is_chosen_by_exact_name_then_wildcard_then_the_first() {
        let shop = Workshop::new();
        let first = load(shop.pair("first", &["first.example"]));
        let wildcard = load(shop.pair("wildcard", &["*.example.com"]));
        let exact = load(shop.pair("exact", &["shop.example.com"]));
        let server = ServerTls::new().unwrap().config(&[first.clone(), wildcard.clone(), exact.clone()], None).unwrap();
        for (host, wanted) in [
            ("first.example", &first),
            ("shop.example.com", &exact),
            ("SHOP.example.com", &exact),
            ("cart.example.com", &wildcard),
            ("a.b.example.com", &first),
            ("example.com", &first),
            ("127.0.0.1", &first),
        ] {
            let (client, _) = handshake(&trusting_client(&rustls::version::TLS13), &server, host).unwrap();
            assert_eq!(client.peer_certificates().unwrap(), wanted.key.cert, "{host}");
            assert_eq!(client.alpn_protocol(), Some(ALPN_HTTP2));
        }
    }

    #[test]
    fn a_returning_client_is_recognised_after_a_reload() {
        let shop = Workshop::new();
        let pair = load(shop.pair("a", &["a.example"]));
        let tls = ServerTls::new().unwrap();
        for version in [&rustls::version::TLS13, &TLS12] {
            let client = trusting_client(version);
            let (first, _) =
                handshake(&client, &tls.config(std::slice::from_ref(&pair), None).unwrap(), "a.example").unwrap();
            assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
            let (second, _) =
                handshake(&client, &tls.config(std::slice::from_ref(&pair), None).unwrap(), "a.example").unwrap();
            assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        }
    }

    #[test]
    fn a_ticket_alone_is_enough_to_be_recognised() {
        let shop = Workshop::new();
        let pair = load(shop.pair("a", &["a.example"]));
        let first = ServerTls::new().unwrap();
        let forgetful = ServerTls { sessions: ServerSessionMemoryCache::new(1), ..first.clone() };
        let client = trusting_client(&rustls::version::TLS13);
        handshake(&client, &first.config(std::slice::from_ref(&pair), None).unwrap(), "a.example").unwrap();
        let server = forgetful.config(std::slice::from_ref(&pair), None).unwrap();
        let (second, _) = handshake(&client, &server, "a.example").unwrap();
        assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed));
    }

    #[test]
    fn without_certificates_every_handshake_is_refused() {
        let server = ServerTls::new().unwrap().config(&[], None).unwrap();
        assert!(handshake(&trusting_client(&TLS12), &server, "a.example").is_err());
    }
}

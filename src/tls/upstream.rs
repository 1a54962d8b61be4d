//! How endpoints of one backend are spoken to over TLS.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::roots::{Hash, Roots};
use super::{CertifiedPair, provider};

/// How endpoints of one backend are spoken to over TLS.
#[derive(Debug)]
pub struct UpstreamTls {
    /// ALPN is set for the backend's protocol.
    pub client: Arc<ClientConfig>,
    /// Verified, and sent as SNI, instead of the endpoint's own host.
    pub server_name: Option<ServerName<'static>>,
    /// Differs whenever the certificates and keys behind it, the protocol or the server name differ.
    pub fingerprint: [u8; 32],
    /// What it was built from.
    pub source: UpstreamTlsSource,
}

/// Where an [`UpstreamTls`] comes from: the files and settings, not their content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTlsSource {
    /// `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// Paths of the client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    pub server_name: Option<ServerName<'static>>,
    /// [`super::ALPN_HTTP1`] or [`super::ALPN_HTTP2`].
    pub alpn: &'static [u8],
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.source == other.source
    }
}

impl UpstreamTls {
    /// Puts together what was read: `roots` and `client` are the content of the files that `source` names.
    #[must_use]
    pub fn build(source: UpstreamTlsSource, roots: &Roots, client: Option<&CertifiedPair>) -> Self {
        let fingerprint = fingerprint(&source, roots, client);
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs speaks TLS 1.2 and 1.3")
            .with_root_certificates(Arc::clone(&roots.store));
        let mut config = match client {
            Some(pair) => {
                let key = rustls::sign::SingleCertAndKey::from(Arc::clone(&pair.key));
                builder.with_client_cert_resolver(Arc::new(key))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![source.alpn.to_vec()];
        Self { client: Arc::new(config), server_name: source.server_name.clone(), fingerprint, source }
    }
}

fn fingerprint(source: &UpstreamTlsSource, roots: &Roots, client: Option<&CertifiedPair>) -> [u8; 32] {
    let mut hash = Hash::new();
    hash.part(source.alpn);
    hash.part(source.server_name.as_ref().map(ServerName::to_str).unwrap_or_default().as_bytes());
    hash.part(&roots.fingerprint);
    // The certificate stands for its key too: a pair is only loaded when they match.
    for certificate in client.iter().flat_map(|pair| &pair.key.cert) {
        hash.part(certificate);
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Workshop, handshake};
    use super::super::{ALPN_HTTP1, ALPN_HTTP2, ServerTls};
    use super::*;

    fn source(alpn: &'static [u8], server_name: Option<&'static str>) -> UpstreamTlsSource {
        let server_name = server_name.map(|name| ServerName::try_from(name).unwrap());
        UpstreamTlsSource { ca: None, client: None, server_name, alpn }
    }

    #[test]
    fn the_fingerprint_follows_content_and_settings() {
        let shop = Workshop::new();
        let (cert_a, key_a) = shop.pair("a", &["a.example"]);
        let (cert_b, _) = shop.pair("b", &["b.example"]);
        let roots = |path| Roots::from_file(path).unwrap();
        let base = UpstreamTls::build(source(ALPN_HTTP1, None), &roots(&cert_a), None).fingerprint;
        let client = CertifiedPair::load(&cert_a, &key_a).unwrap();
        let others = [
            UpstreamTls::build(source(ALPN_HTTP2, None), &roots(&cert_a), None),
            UpstreamTls::build(source(ALPN_HTTP1, Some("a.example")), &roots(&cert_a), None),
            UpstreamTls::build(source(ALPN_HTTP1, None), &roots(&cert_b), None),
            UpstreamTls::build(source(ALPN_HTTP1, None), &roots(&cert_a), Some(&client)),
        ];
        assert!(others.iter().all(|other| other.fingerprint != base));
        assert_eq!(UpstreamTls::build(source(ALPN_HTTP1, None), &roots(&cert_a), None).fingerprint, base);
    }

    #[test]
    fn only_the_given_authority_is_believed() {
        let shop = Workshop::new();
        let (cert, key) = shop.pair("a", &["a.example"]);
        let (other, _) = shop.pair("b", &["a.example"]);
        let server =
            ServerTls::new().unwrap().config(&[Arc::new(CertifiedPair::load(&cert, &key).unwrap())], None).unwrap();
        let trusting = UpstreamTls::build(source(ALPN_HTTP2, None), &Roots::from_file(&cert).unwrap(), None);
        let (client, _) = handshake(&trusting.client, &server, "a.example").unwrap();
        assert_eq!(client.alpn_protocol(), Some(ALPN_HTTP2));
        let doubting = UpstreamTls::build(source(ALPN_HTTP2, None), &Roots::from_file(&other).unwrap(), None);
        assert!(handshake(&doubting.client, &server, "a.example").is_err());
        assert!(handshake(&trusting.client, &server, "b.example").is_err());
    }

    #[test]
    fn a_client_certificate_is_sent_when_it_was_given() {
        let shop = Workshop::new();
        let (cert, key) = shop.pair("a", &["a.example"]);
        let pair = CertifiedPair::load(&cert, &key).unwrap();
        let roots = Roots::from_file(&cert).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.store.clone(), provider());
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&pair.key))));
        let server = Arc::new(server);
        let silent = UpstreamTls::build(source(ALPN_HTTP1, None), &roots, None);
        assert!(handshake(&silent.client, &server, "a.example").is_err());
        let named = UpstreamTls::build(source(ALPN_HTTP1, None), &roots, Some(&pair));
        let (_, server) = handshake(&named.client, &server, "a.example").unwrap();
        assert_eq!(server.peer_certificates().unwrap(), pair.key.cert);
    }
}

//! Certificates made for one test, and TLS with them from either end.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::within;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = date_time_ymd(2100, 1, 1);
        let key = KeyPair::generate().expect("keys can be made");
        let pem = params.self_signed(&key).expect("certificates can be made").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A leaf for names and addresses.
    pub fn pair(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let common_name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("names are names");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_after = date_time_ymd(2100, 1, 1);
        let key = KeyPair::generate().expect("keys can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("certificates can be made");
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("our own PEM is PEM");
        roots.add(certificate).expect("our own authority is one");
        roots
    }

    /// For clients that trust this authority alone and offer `alpn`.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        let mut config = ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    /// The same, for clients that show a certificate of their own.
    pub fn client_showing(
        &self,
        shown: Option<&Pair>,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let config = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(self.roots());
        let mut config = match shown.map(Pair::parsed) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).expect("the pair fits"),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    /// Connects to `address` by TLS as a client of `name`.
    pub async fn connect(&self, address: SocketAddr, name: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
        connect(Arc::new(self.client(alpn)), address, name).await.expect("the handshake works")
    }

    /// For endpoints that ask their clients for a certificate of this authority.
    pub fn acceptor_for_known_clients(&self, pair: &Pair) -> TlsAcceptor {
        let verifier = WebPkiClientVerifier::builder(Arc::new(self.roots())).build().expect("there is a root");
        let (chain, key) = pair.parsed();
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        Arc::new(config.with_single_cert(chain, key).expect("the pair fits")).into()
    }
}

impl Pair {
    fn parsed(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_reader_iter(Cursor::new(&self.cert)).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        (chain.expect("our own PEM is PEM"), key.expect("our own PEM is PEM"))
    }

    /// The certificate as it is shown in a handshake.
    pub fn der(&self) -> CertificateDer<'static> {
        self.parsed().0.remove(0)
    }

    /// For endpoints that agree to `alpn`.
    pub fn acceptor(&self, alpn: &[&str]) -> TlsAcceptor {
        let (chain, key) = self.parsed();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let mut config = config.expect("the pair fits");
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    }
}

/// Connects to `address` by TLS as a client of `name`, if the handshake works.
pub async fn connect(
    config: Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = within("a connection", TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).expect("names are names");
    within("a TLS handshake", TlsConnector::from(config).connect(name, stream)).await
}

//! Certificates, keys and authorities from their files, each read once, shared with the previous configuration
//! where nothing changed, and kept from it where the new file is bad: a broken renewal must not stop a reload.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::{Check, unless_reported};
use crate::config::file::{BackendTlsFile, ClientAuthFile, ClientAuthModeFile, PairFile};
use crate::config::key_path::KeyPath;
use crate::config::types::{Config, UpstreamProtocol};
use crate::tls::{self, CertifiedPair, ClientAuth, Roots, TlsFileError, UpstreamTls, UpstreamTlsSource};

type Read<T> = Result<T, TlsFileError>;

/// What has been read for this configuration, and what the previous one holds.
pub(super) struct TlsFiles<'c> {
    previous: Option<&'c Config>,
    pairs: HashMap<(PathBuf, PathBuf), Read<Arc<CertifiedPair>>>,
    /// By file; `None`: the system's.
    roots: HashMap<Option<PathBuf>, Read<Roots>>,
}

impl<'c> TlsFiles<'c> {
    pub(super) fn new(previous: Option<&'c Config>) -> Self {
        Self { previous, pairs: HashMap::new(), roots: HashMap::new() }
    }

    fn pair(&mut self, paths: &(PathBuf, PathBuf)) -> Read<Arc<CertifiedPair>> {
        let load = || CertifiedPair::load(&paths.0, &paths.1).map(Arc::new);
        self.pairs.entry(paths.clone()).or_insert_with(load).clone()
    }

    fn roots(&mut self, ca: Option<&PathBuf>) -> Read<Roots> {
        let load = || ca.map_or_else(Roots::system, |path| Roots::from_file(path));
        self.roots.entry(ca.cloned()).or_insert_with(load).clone()
    }

    fn upstream(&mut self, source: UpstreamTlsSource) -> Read<Arc<UpstreamTls>> {
        let roots = self.roots(source.ca.as_ref());
        let client = source.client.as_ref().map(|paths| self.pair(paths)).transpose();
        let built = UpstreamTls::build(source, &roots?, client?.as_deref());
        let same = self.previous_upstream(|old| old.fingerprint == built.fingerprint && old.source == built.source);
        Ok(same.unwrap_or_else(|| Arc::new(built)))
    }

    fn previous_pair(&self, (cert, key): &(PathBuf, PathBuf)) -> Option<Arc<CertifiedPair>> {
        let pairs = self.previous.into_iter().flat_map(|config| &config.listeners).flat_map(|listener| &listener.tls);
        pairs.into_iter().find(|pair| pair.cert_path == *cert && pair.key_path == *key).cloned()
    }

    fn previous_client_roots(&self, ca: &Path) -> Option<Roots> {
        let listeners = self.previous.into_iter().flat_map(|config| &config.listeners);
        listeners
            .filter_map(|listener| listener.client_auth.as_ref())
            .find(|auth| auth.ca == ca)
            .map(|auth| auth.roots.clone())
    }

    fn previous_upstream(&self, wanted: impl Fn(&UpstreamTls) -> bool) -> Option<Arc<UpstreamTls>> {
        let services = || self.previous.into_iter().flat_map(|config| &config.services);
        let backends = services().flat_map(|service| &service.backends).filter_map(|backend| backend.tls.as_ref());
        let asked = services().flat_map(|service| service.rollout.gates.destinations());
        let asked = asked.filter_map(|to| to.tls.as_ref());
        backends.chain(asked).find(|tls| wanted(tls)).cloned()
    }
}

impl Check<'_, '_> {
    /// A pair that is shown to clients.
    pub(super) fn listener_pair(&mut self, at: &KeyPath, file: &PairFile) -> Option<Arc<CertifiedPair>> {
        let cert = self.file_path(&at.key("cert"), &file.cert);
        let key = self.file_path(&at.key("key"), &file.key);
        let paths = (cert?, key?);
        let previous = self.tls_files.previous_pair(&paths);
        match (self.tls_files.pair(&paths), previous) {
            (Ok(pair), previous) => {
                self.warn_of_expiry(&at.key("cert"), &pair);
                Some(previous.filter(|previous| previous.same_material(&pair)).unwrap_or(pair))
            }
            (Err(error), Some(previous)) => {
                self.keep(&at.key(key_of(&error, &paths)), &error);
                Some(previous)
            }
            (Err(error), None) => {
                self.unusable(&at.key(key_of(&error, &paths)), error);
                None
            }
        }
    }

    /// Which certificates clients show.
    pub(super) fn client_auth(&mut self, at: &KeyPath, file: &ClientAuthFile) -> Option<ClientAuth> {
        let at = at.key("ca");
        let ca = self.file_path(&at, &file.ca)?;
        let required = file.mode == ClientAuthModeFile::Required;
        match self.tls_files.roots(Some(&ca)) {
            Ok(roots) => Some(ClientAuth { ca, roots, required }),
            Err(error) => {
                let previous = self.tls_files.previous_client_roots(&ca);
                match previous {
                    Some(_) => self.keep(&at, &error),
                    None => self.unusable(&at, error),
                }
                previous.map(|roots| ClientAuth { ca, roots, required })
            }
        }
    }

    /// How the endpoints of a backend are spoken to; `file` is its `tls` table, if it has one.
    pub(super) fn upstream_tls(
        &mut self,
        at: &KeyPath,
        file: Option<&BackendTlsFile>,
        protocol: UpstreamProtocol,
    ) -> Option<Arc<UpstreamTls>> {
        let source = self.upstream_source(at, file, protocol)?;
        match self.tls_files.upstream(source.clone()) {
            Ok(tls) => {
                if let Some(Ok(pair)) = source.client.as_ref().map(|paths| self.tls_files.pair(paths)) {
                    self.warn_of_expiry(&at.key("cert"), &pair);
                }
                Some(tls)
            }
            Err(error) => {
                let at = match &source.client {
                    Some(paths) if error.file == paths.0 || error.file == paths.1 => at.key(key_of(&error, paths)),
                    _ if source.ca.is_some() => at.key("ca"),
                    _ => at.clone(),
                };
                let previous = self.tls_files.previous_upstream(|old| old.source == source);
                match previous {
                    Some(_) => self.keep(&at, &error),
                    None => self.unusable(&at, error),
                }
                previous
            }
        }
    }

    fn upstream_source(
        &mut self,
        at: &KeyPath,
        file: Option<&BackendTlsFile>,
        protocol: UpstreamProtocol,
    ) -> Option<UpstreamTlsSource> {
        let alpn = match protocol {
            UpstreamProtocol::Http1 => tls::ALPN_HTTP1,
            UpstreamProtocol::Http2 => tls::ALPN_HTTP2,
        };
        let Some(file) = file else {
            return Some(UpstreamTlsSource { ca: None, client: None, server_name: None, alpn });
        };
        let ca = file.ca.as_deref().map(|text| self.file_path(&at.key("ca"), text));
        let cert = file.cert.as_deref().map(|text| self.file_path(&at.key("cert"), text));
        let key = file.key.as_deref().map(|text| self.file_path(&at.key("key"), text));
        let server_name = file.server_name.as_deref().map(|text| self.server_name(at, text));
        let client = match (unless_reported(cert)?, unless_reported(key)?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (cert, _) => {
                let (given, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
                let message = format!("`{given}` is given without `{missing}`");
                self.report.absent(&at.key(missing), message, "a client certificate needs both, or leave both out");
                return None;
            }
        };
        Some(UpstreamTlsSource { ca: unless_reported(ca)?, client, server_name: unless_reported(server_name)?, alpn })
    }

    fn server_name(&mut self, at: &KeyPath, text: &str) -> Option<ServerName<'static>> {
        let name = ServerName::try_from(text.to_ascii_lowercase());
        if name.is_err() {
            let hint = "write the name in the endpoints' certificates, like \"app.internal\"";
            self.report.problem(&at.key("server_name"), format!("{text:?} is no host name"), hint);
        }
        name.ok()
    }

    fn warn_of_expiry(&mut self, at: &KeyPath, pair: &CertifiedPair) {
        if let Some(ended) = pair.not_after().and_then(|end| self.now.duration_since(end).ok()) {
            let message = format!("the certificate in {} expired {} ago", pair.cert_path.display(), days(ended));
            self.report.warning(at, message, "renew it: clients refuse it");
        }
    }

    fn keep(&mut self, at: &KeyPath, error: &TlsFileError) {
        let message = format!("{}: {}; what was read before stays in use", error.file.display(), error.message);
        self.report.warning(at, message, error.hint.clone().unwrap_or_default());
    }

    fn unusable(&mut self, at: &KeyPath, error: TlsFileError) {
        self.report.problem(at, format!("{}: {}", error.file.display(), error.message), error.hint.unwrap_or_default());
    }
}

/// Which key of a pair names the bad file.
fn key_of(error: &TlsFileError, paths: &(PathBuf, PathBuf)) -> &'static str {
    if error.file == paths.1 && error.file != paths.0 { "key" } else { "cert" }
}

fn days(duration: std::time::Duration) -> String {
    match duration.as_secs() / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

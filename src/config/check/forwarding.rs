//! Who is believed about clients, and what is told on.

use super::{Check, Fault};
use crate::config::check::conditions::is_token;
use crate::config::file::{BelieveFile, ClientCertFile, File};
use crate::config::key_path::KeyPath;
use crate::config::types::{Dialect, ForwardingConfig, Trust};

/// Longer than any name somebody reads.
const VIA_BYTES_MAX: usize = 64;

impl Check<'_, '_> {
    pub(super) fn forwarding(&mut self, root: &KeyPath, file: &File) -> Option<ForwardingConfig> {
        let at = root.key("trusted_proxies");
        let trusted: Vec<_> = file.trusted_proxies.iter().enumerate().collect();
        let trusted: Vec<_> = trusted.into_iter().map(|(index, text)| self.network(&at.index(index), text)).collect();
        for (index, network) in trusted.iter().enumerate() {
            if network.is_some_and(|network| network.prefix_len() == 0) {
                let hint = "name the proxies in front; as it is, any client can say that it is another";
                self.report.warning(&at.index(index), "everybody is trusted", hint);
            }
        }
        let at = root.key("forwarding");
        let via = self.accept(&at.key("via"), via(&file.forwarding.via));
        if file.forwarding.trace_sample.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            let hint = "write 0.01 for one trace in a hundred; leave it out to start none";
            self.report.problem(&at.key("trace_sample"), "a share lies between 0 and 1", hint);
        }
        Some(ForwardingConfig {
            trust: Trust {
                proxies: trusted.into_iter().collect::<Option<_>>()?,
                dialect: match file.forwarding.believe {
                    BelieveFile::XForwarded => Dialect::XForwarded,
                    BelieveFile::Forwarded => Dialect::Forwarded,
                    BelieveFile::Both => Dialect::Both,
                },
                client_cert: file.forwarding.client_cert == ClientCertFile::Trust,
            },
            via: via?,
            forwarded: file.forwarding.forwarded,
            return_request_id: file.forwarding.return_request_id,
            trace_sample: file.forwarding.trace_sample,
        })
    }
}

/// RFC 9110, 7.6.3: a pseudonym is a token.
fn via(text: &str) -> Result<Option<String>, Fault> {
    match text {
        "off" => Ok(None),
        text if is_token(text) && text.len() <= VIA_BYTES_MAX => Ok(Some(text.to_owned())),
        _ => Err(Fault::new(
            format!("{text:?} is no name for Via"),
            format!("use letters, digits, - and _, at most {VIA_BYTES_MAX}, or \"off\" for no Via at all"),
        )),
    }
}

//! The address of the admin API, and the token without which it stays on this machine.

use super::{Check, Fault, unless_reported};
use crate::config::file::AdminFile;
use crate::config::key_path::KeyPath;
use crate::config::types::{AdminConfig, Secret};

impl Check<'_, '_> {
    pub(super) fn admin(&mut self, at: &KeyPath, file: &AdminFile) -> Option<AdminConfig> {
        let address = self.address(&at.key("address"), &file.address);
        let token = file.token.as_deref().map(|text| self.accept(&at.key("token"), token(text)));
        let address = address?;
        if file.token.is_none() && !address.ip().to_canonical().is_loopback() {
            self.report.absent(
                &at.key("token"),
                format!("{address} can be reached from other machines, and there is no token"),
                "set a token, as in token = \"${ADMIN_TOKEN}\", or listen on 127.0.0.1 only",
            );
        }
        Some(AdminConfig { address, token: unless_reported(token)? })
    }
}

/// The token itself never appears in a message.
fn token(text: &str) -> Result<Secret, Fault> {
    if text.is_empty() {
        return Err(Fault::new("the token is empty", "leave the key out for no token; it is then for loopback only"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        let hint = "use letters, digits and ASCII signs: `openssl rand -hex 32` makes a good one";
        return Err(Fault::new("the token holds a character that can't be sent in a header", hint));
    }
    Ok(Secret::new(text.to_owned()))
}

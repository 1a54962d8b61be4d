//! proxy.toml: file shapes become checked values, and every problem is told at once, with its line, key and a hint.
//!
//! ```text
//! text -> Document (TOML with places) -> Reader (against the schema, ${NAME} filled in) -> File -> check -> Config
//!              |                            |                                                |
//!              +----------------------------+------------- Report <--------------------------+
//! ```
//!
//! A broken value doesn't stop the reading: a placeholder takes its seat, its key is remembered as broken, and
//! whatever a later step finds wrong with a placeholder is not reported. So one run tells everything there is to
//! mend, and nothing that only follows from something else.

mod aside;
mod check;
mod destination;
mod document;
mod file;
mod freeze;
mod gates;
mod key_path;
mod notify;
mod preview;
mod problem;
mod reader;
mod report;
mod schema;
mod shape;
mod substitution;
mod suggestion;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod types;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

pub use aside::load_again;
pub use destination::Destination;
pub use freeze::FreezeWindow;
pub use gates::{GatesConfig, MetricConfig, SmokeCheck, SmokeConfig, WebhookConfig};
pub use notify::{SinkConfig, SinkKind};
pub use preview::PreviewConfig;
pub use problem::{Problem, Problems};
pub use schema::schema;
pub use types::*;

use check::Check;
use document::Document;
use file::File;
use reader::Reader;
use report::Report;

/// The largest file that is read: far above any real one, far below the machine's memory.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A valid configuration, and what is still worth a look.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// In the order of the file.
    pub warnings: Vec<Problem>,
}

/// Reads and checks the file at `path`, with `${NAME}` filled in from the process environment. On a reload
/// `previous` is what was loaded last: services and TLS material that haven't changed are shared with it, and material
/// that can't be read any more is kept from it, with a warning.
///
/// # Errors
/// Everything that is wrong with the file, at once.
pub fn load(path: &Path, previous: Option<&Config>) -> Result<Loaded, Problems> {
    let source = read(path)?;
    parse(&source, path, &|name| std::env::var(name).ok(), previous)
}

/// Checks `source` as if it had been read from `path`, with `${NAME}` filled in by `env`; see [`load`].
///
/// # Errors
/// Everything that is wrong with the text, at once.
pub fn parse(
    source: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    previous: Option<&Config>,
) -> Result<Loaded, Problems> {
    parse_at(SystemTime::now(), source, path, env, previous)
}

fn parse_at(
    now: SystemTime,
    source: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    previous: Option<&Config>,
) -> Result<Loaded, Problems> {
    let (mended, syntax_errors) = syntax::mend(source);
    let (document, _) = Document::parse(&mended);
    let mut report = Report::new(path, &document);
    for error in &syntax_errors {
        report.syntax_error(error);
    }
    let value = Reader::new(env, &mut report).read(&document);
    let config = match serde_json::from_value::<File>(value) {
        Ok(file) => Some(Check::new(path, now, env, previous, &mut report).config(&file)),
        Err(error) => {
            report.unforeseen(&error);
            None
        }
    };
    let (problems, warnings) = report.finish();
    match config.flatten() {
        Some(mut config) if problems.is_empty() => {
            if let Some(previous) = previous {
                config.keep(previous);
            }
            Ok(Loaded { config, warnings })
        }
        _ => Err(Problems(problems)),
    }
}

/// One address of a backend, as proxy.toml names it.
///
/// # Errors
/// When it is none: what is wrong, and what to do about it.
pub fn endpoint(text: &str) -> Result<EndpointConfig, String> {
    check::endpoint(text)
}

fn read(path: &Path) -> Result<String, Problems> {
    let whole_file = |message: String, hint: &str| Problems(vec![Problem::whole_file(path, message, hint)]);
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(|error| {
        whole_file(
            format!("the file can't be read: {error}"),
            "--config names the file; this one must exist, and tidegate must be allowed to read it",
        )
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = format!("the file is larger than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(whole_file(message, "is this the right file?"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        let mut problems = whole_file("the text is not UTF-8".to_owned(), "save the file as UTF-8");
        problems.0[0].line = Some(line);
        problems
    })
}

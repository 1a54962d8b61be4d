//! Copies of requests, and how their answers are compared.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConditionsFile, DurationText, RouteFile, SizeText, duration, size, words};

/// A table that says which requests are copied, and where to, or a list of such tables.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(in crate::config) enum MirrorsFile {
    One(Box<MirrorFile>),
    Several(Vec<MirrorFile>),
}

/// Which requests are copied, and where to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct MirrorFile {
    /// The backend of this service that gets the copies; its weight may be 0.
    pub(in crate::config) backend: String,
    /// How many of the requests are copied, in percent, from 0 to 100; fractions are fine.
    #[serde(default = "mirror_percent")]
    pub(in crate::config) percent: f64,
    /// What is drawn: each "request", or each "client" with all of its requests.
    #[serde(default)]
    pub(in crate::config) by: MirrorByFile,
    /// Methods of requests that are copied, like ["GET", "HEAD"], which they are when left out.
    pub(in crate::config) methods: Option<Vec<String>>,
    /// Copies only what one of these routes would take: [{ path = "/api" }]; everything when left out.
    #[schemars(length(min = 1))]
    pub(in crate::config) routes: Option<Vec<RouteFile>>,
    /// Copies only requests for which all of it holds: { headers = { x-tenant = "acme" } }; everything when left out.
    #[serde(rename = "match")]
    pub(in crate::config) conditions: Option<ConditionsFile>,
    /// For a copy, from the request's last byte to the end of the answer, like "5s".
    #[serde(default = "mirror_timeout")]
    pub(in crate::config) timeout: DurationText,
    /// Copies under way at a time, of all workers together; those beyond are dropped.
    #[serde(default = "mirror_requests")]
    #[schemars(range(min = 1, max = 1000000))]
    pub(in crate::config) max_requests: u32,
    /// Copies that wait for others to end; 0: those beyond max_requests are dropped at once.
    #[serde(default)]
    #[schemars(range(max = 1000000))]
    pub(in crate::config) queue: u32,
    /// How much of a request's body is held for a copy, like "64KiB".
    #[serde(default = "mirror_body_max")]
    pub(in crate::config) body_max: SizeText,
    /// Requests with a larger body: "skip" them, or "stream" theirs to the backend as it comes, as long as that keeps up.
    #[serde(default)]
    pub(in crate::config) large_body: LargeBodyFile,
    /// How much of an answer is read, like "1MiB"; the connection of a larger one is closed.
    #[serde(default = "mirror_answer_max")]
    pub(in crate::config) answer_max: SizeText,
    /// Added to the host that copies ask for, before its port, like "-shadow".
    pub(in crate::config) host_suffix: Option<String>,
    /// What copies lack: { headers = ["authorization"], cookies = ["session"] }.
    #[serde(default)]
    pub(in crate::config) redact: RedactFile,
    /// Compares the answers with the clients' own: true, or { body_max = "256KiB" } and others; not when left out.
    pub(in crate::config) compare: Option<CompareFile>,
}

impl MirrorFile {
    /// Everything, compared with the help of a second copy: without one, what is no difference would have to be said.
    pub(in crate::config) fn compared(backend: String) -> Self {
        Self {
            backend,
            percent: mirror_percent(),
            by: MirrorByFile::Request,
            methods: None,
            routes: None,
            conditions: None,
            timeout: mirror_timeout(),
            max_requests: mirror_requests(),
            queue: 0,
            body_max: mirror_body_max(),
            large_body: LargeBodyFile::Skip,
            answer_max: mirror_answer_max(),
            host_suffix: None,
            redact: RedactFile::default(),
            compare: Some(CompareFile::Table(CompareTableFile { noise: true, ..CompareTableFile::default() })),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum MirrorByFile {
    #[default]
    Request,
    Client,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum LargeBodyFile {
    #[default]
    Skip,
    Stream,
}

/// What is taken out of copies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RedactFile {
    /// Names of headers, like ["authorization"].
    pub(in crate::config) headers: Vec<String>,
    /// Names of cookies, like ["session"].
    pub(in crate::config) cookies: Vec<String>,
}

/// true, or a table that says what of the answers is compared.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(in crate::config) enum CompareFile {
    Switch(bool),
    Table(CompareTableFile),
}

/// What of the answers is compared, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct CompareTableFile {
    /// Headers that must be the same, like ["content-type", "location"].
    pub(in crate::config) headers: Vec<String>,
    /// How much of a body is compared, like "256KiB".
    pub(in crate::config) body_max: SizeText,
    /// true: a second copy goes to the backend that answers the client, to find out what differs by itself.
    pub(in crate::config) noise: bool,
    /// Places in JSON bodies that may differ, with all below them, like ["$.timestamp", "$.items[*].id"].
    pub(in crate::config) ignore: Vec<String>,
    /// More names of fields, headers and parameters whose values are never kept in examples, like ["tax_id"].
    pub(in crate::config) redact: Vec<String>,
    /// Requests that are kept as examples, each of another difference.
    #[schemars(range(max = 100))]
    pub(in crate::config) examples: u32,
    /// Part of the answers that may really differ of a shadow that is the same, like 0.01.
    pub(in crate::config) tolerated: f64,
    /// How often, at most, a verdict is wrong, either way, like 0.001.
    pub(in crate::config) alpha: f64,
}

impl Default for CompareTableFile {
    fn default() -> Self {
        Self {
            headers: words(&["content-type", "location"]),
            body_max: size("256KiB"),
            noise: false,
            ignore: Vec::new(),
            redact: Vec::new(),
            examples: 5,
            tolerated: 0.01,
            alpha: 0.001,
        }
    }
}

fn mirror_percent() -> f64 {
    100.0
}

fn mirror_timeout() -> DurationText {
    duration("5s")
}

fn mirror_requests() -> u32 {
    100
}

fn mirror_body_max() -> SizeText {
    size("64KiB")
}

fn mirror_answer_max() -> SizeText {
    size("1MiB")
}

//! In which ways a request can fail. What each means for whom is decided elsewhere: by `upstream` for an endpoint, by
//! `guard` for a backend.

use http::{HeaderMap, HeaderName, HeaderValue};

/// In which way a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// 5xx, no connection, reset, timeout, a body cut short, a gRPC status that blames the server.
    Server,
    /// Later than nearly all of stable's.
    Slow,
    /// 4xx, other than ours and 429.
    Client,
    /// The client left before the head came.
    Abandoned,
}

impl FailureKind {
    pub const ALL: [Self; 4] = [Self::Server, Self::Slow, Self::Client, Self::Abandoned];

    /// How many times as often as stable a candidate may fail like this. A stricter candidate may well refuse more
    /// than stable did; one that refuses nearly everything is broken.
    #[must_use]
    pub fn tolerated(self) -> f64 {
        match self {
            Self::Server | Self::Slow => 2.0,
            Self::Client | Self::Abandoned => 5.0,
        }
    }

    /// As events and metrics have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Slow => "slow",
            Self::Client => "client",
            Self::Abandoned => "abandoned",
        }
    }
}

/// As a name, since to look up by text is to parse it each time.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A gRPC status that says that the server is at fault, in trailers or in a head without a body: UNKNOWN,
/// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
#[must_use]
pub fn grpc_blames_server(headers: &HeaderMap) -> bool {
    headers.get(&GRPC_STATUS).is_some_and(grpc_status_blames_server)
}

/// The same of such a status by itself.
#[must_use]
pub fn grpc_status_blames_server(status: &HeaderValue) -> bool {
    matches!(status.as_bytes(), b"2" | b"4" | b"12" | b"13" | b"14" | b"15")
}

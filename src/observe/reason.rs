//! Why requests end otherwise than they should. A reason's name is stable: the access log and the metrics have it, and
//! people's alerts match it.

use super::causes::causes;

causes! {
    /// Why tidegate answered in an endpoint's place, or broke an answer off.
    Reason {
        /// The process has nearly all the memory that it may have.
        Overloaded = "overloaded",
        /// No descriptor, port or buffer is left for a connection to an endpoint.
        Exhausted = "exhausted",
        /// No `Host`, several, one that contradicts the authority, or one that is none.
        BadHost = "bad_host",
        /// A `Transfer-Encoding` other than `chunked`.
        BadFraming = "bad_framing",
        /// A host and port, or `*`, in the place of a path.
        BadTarget = "bad_target",
        /// A path that means nothing.
        BadPath = "bad_path",
        /// A path that endpoints might read differently than the routes did.
        AmbiguousPath = "ambiguous_path",
        /// The head has more bytes or more fields than `limits` allows.
        HeadTooLarge = "head_too_large",
        /// A request to upgrade that contradicts itself.
        BadUpgrade = "bad_upgrade",
        /// It came by again and again, as its `Via` says.
        Loop = "loop",
        /// CONNECT.
        MethodNotAllowed = "method_not_allowed",
        NoRoute = "no_route",
        /// The service is closed to this client.
        Maintenance = "maintenance",
        /// The service's access lists don't let the client in.
        AccessDenied = "access_denied",
        /// The service is for TLS alone.
        HttpsRedirect = "https_redirect",
        /// The client has used up its allowance.
        RateLimited = "rate_limited",
        /// The service is held, and as many requests wait as may.
        HoldFull = "hold_full",
        /// As many requests wait for the backend as may.
        QueueFull = "queue_full",
        /// The backend was at its limit for as long as a request may wait.
        QueueTimeout = "queue_timeout",
        /// No backend has both a weight and an endpoint.
        NoBackend = "no_backend",
        NoEndpoint = "no_endpoint",
        ConnectFailed = "connect_failed",
        ConnectTimeout = "connect_timeout",
        /// The endpoint closed or reset the connection, or answered nonsense, before a head.
        EndpointBroke = "endpoint_broke",
        ResponseTimeout = "response_timeout",
        /// The endpoint switched protocols unasked, or to WebSocket wrongly.
        BadSwitch = "bad_switch",
        /// The endpoint can't do WebSocket over HTTP/2.
        UpgradeUnsupported = "upgrade_unsupported",
        /// A path longer than `limits.uri_bytes`.
        UriTooLong = "uri_too_long",
        /// A body larger than the service's `body_max`.
        BodyTooLarge = "body_too_large",
        /// The client's body broke off.
        RequestBroken = "request_broken",
        /// The client was waited for too long in the middle of its body.
        RequestStalled = "request_stalled",
        /// The whole took longer than `timeouts.request`.
        RequestTimeout = "request_timeout",
        /// The endpoint's body broke off.
        ResponseBroken = "response_broken",
        /// The endpoint was waited for too long in the middle of its body.
        ResponseStalled = "response_stalled",
        /// The client took nothing of its answer for too long.
        ClientStalled = "client_stalled",
        /// The client left before the answer or in the middle of it.
        ClientLeft = "client_left",
        /// We are stopping, and the request outlasted its deadline.
        Shutdown = "shutdown",
    }
}

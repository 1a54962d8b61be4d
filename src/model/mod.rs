//! The vocabulary: names, weights, matches, clients. Pure; depends on nothing else of ours.

mod attempt;
mod cohort;
mod content_type;
mod deployment;
mod event_kind;
mod facts;
mod failure;
mod forwarded;
mod guarding;
mod header_changes;
mod json_path;
mod matching;
mod name;
mod networks;
mod overload;
mod page;
mod path;
mod percent;
mod plan;
mod preference;
mod proxy_header;
mod roll;
mod text_template;
mod units;
mod via;
mod weight;

pub use attempt::{AttemptFailure, FailureSet};
pub use cohort::{Arm, ClientKey, Sticky, choose};
pub use content_type::{ContentType, ContentTypes};
pub use deployment::{Deployed, Deployment, LiveStable, OpenRollout};
pub use event_kind::{EVENT_KINDS, EventPattern, TELLING_KINDS};
pub use facts::RequestFacts;
pub use failure::{FailureKind, grpc_blames_server, grpc_status_blames_server};
pub use forwarded::{ForwardedElement, parse_node, write_forwarded};
pub use guarding::{Drain, GuardMode};
pub use header_changes::HeaderChanges;
pub use json_path::{JsonPath, JsonPathError, PlaceStep, write_json_path};
pub use matching::{HostMatch, PathMatch, RouteId, RouteMatch, RuleMatch, ValueMatch};
pub use name::{BackendName, NameError, ServiceName};
pub use networks::{AccessList, NetworkSet, leading_bits, lies_in};
pub use overload::Overload;
pub use page::{Page, PageKind, PageValues};
pub use path::{PathFault, decide_path, is_plain_path, normal_path};
pub use percent::{LiveMirror, Percent, PercentError};
pub use plan::{CONFIDENCE, DEADLINE, MARGIN, Plan, Step, Strategy};
pub use preference::{Coding, Format};
pub use proxy_header::{
    Ends, NoProxyHeader, ProxyHeader, ProxyVersion, local_proxy_header, read_proxy_header, write_proxy_header,
};
pub use roll::{OpenRoll, RollOutcome};
pub use text_template::{TextTemplate, TextTemplateError};
pub use units::{SizeError, UnitError, format_bytes, format_duration, parse_bytes, parse_duration, parse_timestamp};
pub use via::{Via, is_loop};
pub use weight::{LiveWeights, NamedWeights, Split, Weight, WeightError};

//! The vocabulary: names, weights, matches, clients. Pure; depends on nothing else of ours.

mod cohort;
mod content_type;
mod facts;
mod matching;
mod name;
mod page;
mod preference;
mod units;
mod weight;

pub use cohort::{Arm, ClientKey, Sticky, choose};
pub use content_type::{ContentType, ContentTypes};
pub use facts::RequestFacts;
pub use matching::{HostMatch, PathMatch, RouteMatch, RuleMatch, ValueMatch};
pub use name::{BackendName, NameError, ServiceName};
pub use page::{Page, PageKind, PageValues};
pub use preference::{Coding, Format};
pub use units::{SizeError, UnitError, format_bytes, format_duration, parse_bytes, parse_duration};
pub use weight::{Split, Weight, WeightError};

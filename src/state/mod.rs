//! What requests see: one immutable snapshot, swapped whole, with one writer.

mod availability;
mod build;
mod deployment;
mod effective;
mod hold;
mod mirror;
mod routes;
mod snapshot;
mod store;
mod used;
mod watch;

pub use deployment::with_revision;
pub use hold::{Held, Hold, HoldCounts};
pub use mirror::{InLine, Mirror, Place, Places, mark};
pub use routes::{RouteTable, Routed};
pub use snapshot::{Backend, Listener, Service, Snapshot};
pub use store::{
    Applied, Change, DeployChange, DrainPlan, History, ListenerKey, LiveChanges, MirrorPlan, Refused, Store,
    WeightsChange, WeightsPlan, named_service,
};
pub use used::UsedServices;
pub use watch::{BackendWatch, ServiceWatch};

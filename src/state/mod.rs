//! What requests see: one immutable snapshot, swapped whole, with one writer.

mod availability;
mod build;
mod deployment;
mod effective;
mod hold;
mod routes;
mod snapshot;
mod store;
mod watch;

pub use hold::{Held, Hold, HoldCounts};
pub use routes::{RouteTable, Routed};
pub use snapshot::{Backend, Listener, Service, Snapshot};
pub use store::{
    Applied, Change, DeployChange, DrainPlan, History, ListenerKey, LiveChanges, Refused, Store, WeightsChange,
    WeightsPlan, named_service,
};
pub use watch::{BackendWatch, ServiceWatch};

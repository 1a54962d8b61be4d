//! Clients that begin requests only to take them back ("rapid reset"). An HTTP/1 endpoint can't be told that a request
//! is no longer wanted but by closing its connection, so each one costs us and the endpoint a connection, and the
//! client a few bytes. h2 counts the resets it sees before we do; these are the others.

use crate::proxy::Activity;

/// A connection may take back this many requests, whatever their share: a page that is left has dozens under way.
const FREE: u64 = 500;

/// Whether a connection has taken back so many of its requests, half or more, that it can't want answers.
pub(super) fn too_many(activity: &Activity) -> bool {
    let cut = activity.cut();
    cut > FREE && cut >= activity.begun() / 2
}

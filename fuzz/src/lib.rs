//! What must hold whatever comes in. Each target takes any bytes and panics when a promise is broken; cargo-fuzz
//! looks for such bytes by hand, `tests/fuzz` tries the same few thousand at every run of the tests.

mod config;
mod cookie;
mod forwarded;
mod head;
mod path;
mod preference;
mod proxy_header;
mod request_head;
mod response_head;
mod shadow;

pub use config::config;
pub use cookie::cookie;
pub use forwarded::forwarded;
pub use path::path;
pub use preference::preference;
pub use proxy_header::proxy_header;
pub use request_head::request_head;
pub use response_head::response_head;
pub use shadow::shadow;

//! stub
use crate::cli::{CliError, DemoArgs};
pub(crate) fn run(_: &DemoArgs) -> Result<(), CliError> {
    todo!()
}

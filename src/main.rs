//! The `tidegate` command.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A proxy's allocations are small, short-lived and freed where they were made.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::main()
}

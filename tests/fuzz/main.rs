//! The targets of `fuzz/` without a fuzzer: their seeds, and a fixed number of mutations of them, the same at every
//! run. What cargo-fuzz finds becomes a seed, so that it stays found.

#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod mutations;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use mutations::Mutations;

/// Everything in these folders, in a fixed order.
fn seeds(folders: &[&str]) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = folders.iter().flat_map(|folder| {
        fs::read_dir(root.join(folder))
            .unwrap_or_else(|error| panic!("{folder}: {error}"))
            .map(|file| file.expect("a folder can be listed").path())
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))).collect()
}

fn run(target: fn(&[u8]), folders: &[&str], mutations: usize) {
    let seeds = seeds(folders);
    assert!(!seeds.is_empty());
    for input in seeds.iter().cloned().chain(Mutations::of(&seeds).take(mutations)) {
        assert!(catch_unwind(|| target(&input)).is_ok(), "the input was b\"{}\"", input.escape_ascii());
    }
}

#[test]
fn a_rewritten_request_says_nothing_that_only_we_may_say() {
    run(targets::request_head, &["fuzz/seeds/request_head"], 10_000);
}

#[test]
fn a_rewritten_response_says_nothing_about_its_connection() {
    run(targets::response_head, &["fuzz/seeds/response_head"], 20_000);
}

#[test]
fn a_proxy_header_is_read_to_its_end_and_no_further() {
    run(targets::proxy_header, &["fuzz/seeds/proxy_header"], 20_000);
}

#[test]
fn what_a_client_wrote_hides_nothing_that_a_proxy_added() {
    run(targets::forwarded, &["fuzz/seeds/forwarded"], 20_000);
}

#[test]
fn a_path_is_let_through_only_where_all_its_readings_agree() {
    run(targets::path, &["fuzz/seeds/path"], 10_000);
}

#[test]
fn nobody_is_sent_what_they_did_not_ask_for() {
    run(targets::preference, &["fuzz/seeds/preference"], 20_000);
}

#[test]
fn answers_differ_where_they_do_and_a_table_has_room_for_it() {
    run(targets::shadow, &["fuzz/seeds/shadow"], 20_000);
}

#[test]
fn only_a_signed_cookie_is_believed() {
    run(targets::cookie, &["fuzz/seeds/cookie"], 20_000);
}

#[test]
fn any_configuration_is_valid_or_has_its_problems_told() {
    run(targets::config, &["tests/config/valid", "tests/config/invalid"], 500);
}

//! What `deny.toml` allows and forbids, held against what is built. Needs no network, so it knows only of the
//! advisories that stand there.

mod licence;
mod version;

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use licence::is_allowed;
use version::Ban;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Denied>,
}

#[derive(Deserialize)]
struct Denied {
    #[serde(rename = "crate")]
    spec: String,
    reason: String,
}

/// The machine's own platform, as cargo names it.
fn host() -> String {
    let output = Command::new(env!("CARGO")).arg("-vV").output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo says so").to_owned()
}

/// All that is built here. What Cargo.lock has for other systems needn't be on this machine.
fn packages() -> Vec<Package> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", &host()]);
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("cargo writes its metadata as JSON");
    assert!(metadata.packages.len() > 1);
    metadata.packages
}

fn policy() -> Policy {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let text = std::fs::read_to_string(path).expect("deny.toml stands beside Cargo.toml");
    toml::from_str(&text).unwrap_or_else(|error| panic!("deny.toml: {error}"))
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}\n", found.join("\n  "));
}

#[test]
fn every_licence_is_one_that_is_allowed() {
    let allowed = policy().licenses.allow;
    let refused = |package: &Package| {
        let licence = package.license.as_deref().unwrap_or("none");
        (!is_allowed(licence, &allowed)).then(|| format!("{} {}: {licence}", package.name, package.version))
    };
    let found: Vec<_> = packages().iter().filter_map(refused).collect();
    assert_none("licences that `licenses.allow` in deny.toml doesn't have", &found);
}

#[test]
fn no_version_with_a_known_hole_is_used() {
    let packages = packages();
    let found: Vec<_> = policy()
        .bans
        .deny
        .iter()
        .map(|denied| (Ban::parse(&denied.spec), &denied.reason))
        .flat_map(|(ban, reason)| {
            let banned = packages.iter().filter(move |package| ban.covers(&package.name, &package.version));
            banned.map(move |package| format!("{} {}: {reason}", package.name, package.version))
        })
        .collect();
    assert_none("versions that `bans.deny` in deny.toml has", &found);
}

#[test]
fn everything_comes_from_the_registry() {
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let packages = packages();
    let elsewhere =
        packages.iter().filter(|package| package.source.as_deref().is_some_and(|source| source != registry));
    let found: Vec<_> = elsewhere.map(|package| format!("{}: {:?}", package.name, package.source)).collect();
    assert_none("dependencies from elsewhere", &found);
}

//! Two processes that want the same thing: the first keeps it, the second says what is the matter.

use std::net::TcpListener;
use std::path::Path;

use crate::support::{Proxy, Ran, Setup, Signal, Wire, backend, free_address, get, named, tidegate};

/// Runs a proxy by a file next to another's; it must not start.
async fn refused(folder: &Path, text: &str) -> Ran {
    let file = folder.join("second.toml");
    std::fs::write(&file, text).expect("the folder is ours");
    let ran = Ran::of(&mut tidegate(&["run", "--config", file.to_str().expect("a path is text")])).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

fn says(ran: &Ran, texts: &[&str]) {
    for text in texts {
        assert!(ran.err.contains(text), "{text:?} is not in {}", ran.err);
    }
}

const SHOP: &str = "[services.shop.backends.blue]\nweight = 1\nendpoints = [\"http://127.0.0.1:1\"]\n";

#[tokio::test]
async fn the_state_directory_belongs_to_one() {
    let blue = named("blue").await;
    let proxy = Proxy::before(&blue).await;
    let text = format!("state_dir = \"state\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{SHOP}");
    let ran = refused(proxy.folder(), &text).await;
    let pid = proxy.pid().as_raw_nonzero();
    says(&ran, &["error: the state directory", "belongs to another running tidegate", "hint: stop that one"]);
    says(&ran, &[&format!("(process {pid})")]);
    assert_eq!(proxy.fetch("/").await.text(), "blue");
}

#[tokio::test]
async fn an_address_belongs_to_one_even_though_workers_share_it() {
    let blue = named("blue").await;
    let proxy = Setup::new().workers(2).settings(&backend("blue", 1.0, &blue)).start().await;
    for taken in [proxy.http(), proxy.admin()] {
        let text = format!("state_dir = \"other\"\n[[listeners]]\naddress = \"{taken}\"\n{SHOP}");
        let ran = refused(proxy.folder(), &text).await;
        says(&ran, &[&format!("error: can't listen on {taken}"), "hint: another process listens there"]);
    }
    let text = format!(
        "state_dir = \"other\"\n[admin]\naddress = \"{}\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{SHOP}",
        proxy.admin()
    );
    says(&refused(proxy.folder(), &text).await, &["can't listen on"]);
    for _ in 0..20 {
        assert_eq!(proxy.fetch("/").await.text(), "blue");
    }
}

#[tokio::test]
async fn both_are_free_again_after_the_end() {
    let blue = named("blue").await;
    let address = free_address();
    let settings = format!("[[listeners]]\naddress = \"{address}\"\n{}", backend("blue", 1.0, &blue));
    let mut first = Setup::new().settings(&settings).start().await;
    let state = first.folder().join("state").display().to_string();
    // Served connections that we close first linger in TIME_WAIT, and must not keep the address.
    let mut open = Wire::connect(address).await;
    open.exchange(get("/", "")).await;
    first.signal(Signal::TERM);
    first.wait().await;
    drop(TcpListener::bind(address).expect("the address is free"));
    let second = Setup::new().state_dir(&state).settings(&settings).start().await;
    assert_eq!(Wire::connect(address).await.exchange(get("/", "")).await.text(), "blue");
    second.signal(Signal::KILL);
    drop(second);
    let third = Setup::new().state_dir(&state).settings(&settings).start().await;
    assert_eq!(Wire::connect(address).await.exchange(get("/", "")).await.text(), "blue");
    drop(third);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    std::fs::write(folder.path().join("file"), "").expect("the folder is ours");
    for state in ["file/state", "/proc/state"] {
        let text = format!("state_dir = \"{state}\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{SHOP}");
        let ran = refused(folder.path(), &text).await;
        says(
            &ran,
            &["error: the state directory", "can't be used", "hint: it must be a folder that tidegate can write"],
        );
    }
}

#[tokio::test]
async fn a_damaged_cookie_key_is_told_and_left_alone() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    std::fs::create_dir(folder.path().join("state")).expect("the folder is ours");
    let key = folder.path().join("state/cookie.key");
    std::fs::write(&key, "short").expect("the folder is ours");
    let text = format!("state_dir = \"state\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{SHOP}");
    says(&refused(folder.path(), &text).await, &["cookie.key is not 32 bytes long", "remove it"]);
    assert_eq!(std::fs::read(&key).expect("it is there"), b"short");
}

#[tokio::test]
async fn an_address_this_machine_does_not_have_is_told() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    // Set aside for documentation, so nobody's.
    let text = format!("state_dir = \"state\"\n[[listeners]]\naddress = \"192.0.2.1:8080\"\n{SHOP}");
    let ran = refused(folder.path(), &text).await;
    says(&ran, &["can't listen on 192.0.2.1:8080", "hint: this machine doesn't have that address"]);
}

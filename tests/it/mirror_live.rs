//! Mirrors that are changed while they run: by a new file, by the API, by the command line.

use serde_json::Value;

use crate::support::{Gate, OK, Proxy, Ran, Signal, Upstream, backend, get, mirrored, named, tidegate};

async fn put(proxy: &Proxy, body: &str) -> (u16, String) {
    let fields = "content-type: application/json\r\ntidegate-by: ada\r\n";
    let answer = proxy.call("PUT", "/v1/services/shop/mirror", fields, body).await;
    (answer.status(), answer.text().to_owned())
}

async fn percent(proxy: &Proxy) -> Value {
    proxy.view("/v1/services/shop").await["mirrors"][0]["percent"].clone()
}

#[tokio::test]
async fn a_share_that_is_set_live_holds_at_once_and_after_a_restart_and_ends_with_the_files() {
    let (blue, green) = (named("blue").await, Upstream::answering(OK).await);
    let mut proxy = mirrored(&blue, &green, "percent = 0", "").start().await;
    proxy.fetch("/").await;
    assert_eq!(put(&proxy, r#"{"backend": "green", "percent": 100}"#).await.0, 200);
    proxy.fetch("/").await;
    proxy.copies_answered(1).await;
    proxy.metric_becomes("tidegate_mirror_percent", "mirror=\"green\"", 100).await;
    let state = proxy.folder().join("state").display().to_string();
    proxy.signal(Signal::TERM);
    assert!(proxy.wait().await.success());

    let second = mirrored(&blue, &green, "percent = 0", "").state_dir(&state);
    let mut second = second.start().await;
    assert_eq!(percent(&second).await, 100.0);
    second.fetch("/").await;
    second.copies_answered(1).await;
    // The same share in the file: what was said live holds on. Another one: it ends.
    second.reload_well().await;
    assert_eq!(percent(&second).await, 100.0);
    let settings = |percent: u32| {
        let backends = backend("blue", 1.0, &blue) + &backend("green", 0.0, &green);
        format!("[services.shop.mirror]\nbackend = \"green\"\npercent = {percent}\n{backends}")
    };
    second.rewrite(&settings(1));
    second.reload_well().await;
    assert_eq!(percent(&second).await, 1.0);
    second.rewrite(&settings(0));
    second.reload_well().await;
    assert_eq!(percent(&second).await, 0.0);
    let changed = second.event("mirror_changed").await;
    assert_eq!((&changed["by"], &changed["detail"]["to"]), (&"ada".into(), &100.0.into()));
    second.event("mirror_ended").await;
}

#[tokio::test]
async fn a_share_that_makes_no_sense_is_refused() {
    let (blue, green) = (named("blue").await, Upstream::answering(OK).await);
    let proxy = mirrored(&blue, &green, "", "").start().await;
    for (body, status, said) in [
        (r#"{"backend": "green", "percent": 101}"#, 422, "from 0 to 100"),
        (r#"{"backend": "blue", "percent": 1}"#, 422, "it mirrors to: green"),
        (r#"{"backend": "green", "percentage": 1}"#, 422, "unknown field"),
        (r#"{"percent": 1}"#, 422, "missing field"),
    ] {
        let (got, text) = put(&proxy, body).await;
        assert!(got == status && text.contains(said), "{body}: {got} {text}");
    }
    let outdated = "content-type: application/json\r\nif-match: \"0\"\r\n";
    let body = r#"{"backend": "green", "percent": 1}"#;
    assert_eq!(proxy.call("PUT", "/v1/services/shop/mirror", outdated, body).await.status(), 412);
    assert_eq!(percent(&proxy).await, 100.0);
}

#[tokio::test]
async fn the_command_line_shows_and_changes_a_mirror() {
    let (blue, green) = (named("blue").await, Upstream::answering(OK).await);
    let proxy = mirrored(&blue, &green, "percent = 50", "").start().await;
    let admin = proxy.admin().to_string();
    let run = async |args: &[&str]| {
        let args: Vec<&str> = ["mirror", "shop"].iter().chain(args).chain(&["--admin", &admin]).copied().collect();
        Ran::of(&mut tidegate(&args)).await
    };
    let ran = run(&["green", "0.001%"]).await;
    assert!(ran.out.contains("mirrored to green: 0.001 % (file: 50 %)"), "{ran:?}");
    let ran = run(&[]).await;
    assert!(ran.out.contains("0.001 % (file: 50 %)"), "{ran:?}");
    run(&["green", "off"]).await;
    assert_eq!(percent(&proxy).await, 0.0);
    let ran = Ran::of(&mut tidegate(&["diff", "--admin", &admin])).await;
    assert!(ran.out.contains("~ mirror to green         0 %  (file: 50 %)"), "{ran:?}");
    assert!(ran.out.contains("back: tidegate reset shop"), "{ran:?}");
    let ran = Ran::of(&mut tidegate(&["reset", "shop", "--admin", &admin])).await;
    assert!(ran.out.contains("mirrored to green: 50 %, "), "{ran:?}");
    let ran = Ran::of(&mut tidegate(&["diff", "--admin", &admin])).await;
    assert!(ran.out.contains("every service is as its file says"), "{ran:?}");
    run(&["green", "off"]).await;
    let ran = run(&["green", "file"]).await;
    assert!(ran.out.contains("mirrored to green: 50 %, 0 copies"), "{ran:?}");
    let ran = Ran::of(&mut tidegate(&["events", "--admin", &admin])).await;
    assert!(ran.out.contains("mirror_changed") && ran.out.contains("green: 0.001 %  (before: 50 %)"), "{ran:?}");
}

#[tokio::test]
async fn a_reload_takes_a_mirror_away_and_its_copies_end_as_they_began() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let mut proxy = mirrored(&blue, &gate.upstream, "timeout = \"20s\"", "").start().await;
    let mut client = proxy.connect().await;
    client.exchange(get("/held", "")).await;
    gate.received("GET /held").await;
    proxy.rewrite(&backend("blue", 1.0, &blue));
    proxy.reload_well().await;
    assert_eq!(client.exchange(get("/held", "")).await.text(), "blue");
    assert!(proxy.view("/v1/services/shop").await.get("mirrors").is_none());
    gate.open();
    // Back again, it begins anew.
    let backends = backend("blue", 1.0, &blue) + &backend("green", 0.0, &gate.upstream);
    proxy.rewrite(&format!("[services.shop.mirror]\nbackend = \"green\"\nmax_requests = 7\n{backends}"));
    proxy.reload_well().await;
    client.exchange(get("/", "")).await;
    proxy.copies_answered(1).await;
    assert_eq!(proxy.all_copies_dropped().await, 0);
}

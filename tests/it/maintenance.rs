//! A service under maintenance: closed to all but some, by the file alone.

use crate::support::{OK, Setup, Upstream, Wire, backend, get};

#[tokio::test]
async fn maintenance_closes_a_service_to_all_but_some_until_a_reload_opens_it() {
    let upstream = Upstream::answering(OK).await;
    let with = |keys: &str| format!("[services.shop.maintenance]\n{keys}\n{}", backend("blue", 1.0, &upstream));
    let closed = "enabled = true\nretry_after = \"90s\"\nhtml = \"back.html\"\nallow = [\"127.0.0.9\"]";
    let mut proxy = Setup::new().file("back.html", "<p>back soon").settings(&with(closed)).start().await;
    let answer = proxy.exchange(&get("/", "accept: text/html\r\n")).await;
    assert_eq!((answer.status(), answer.text()), (503, "<p>back soon"));
    assert_eq!(answer.head.value("retry-after"), Some("90"));
    assert_eq!(upstream.connections(), 0);
    let mut insider = Wire::connect_from([127, 0, 0, 9].into(), proxy.http()).await;
    assert_eq!(insider.exchange(get("/", "")).await.text(), "ok");
    proxy.metric_becomes("tidegate_maintenance_answers_total", "", 1).await;
    proxy.rewrite(&with("enabled = false"));
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
}

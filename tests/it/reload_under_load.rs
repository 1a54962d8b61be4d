//! SIGHUP while requests pour in: none of them is lost, and no connection is closed.

use std::net::SocketAddr;

use crate::support::{Load, Ran, Setup, Upstream, Wire, backend, eventually, free_address, named};

fn shop(blue: &Upstream, canary: &Upstream, round: usize) -> String {
    // Weights, services and settings change with every round; the endpoints of blue and canary change places.
    let (first, second) = if round.is_multiple_of(2) { (blue, canary) } else { (canary, blue) };
    backend("blue", 1.0 + round as f64, first)
        + &backend("canary", 10.0, second)
        + &format!(
            "[services.other{round}]\nroutes = [{{ host = \"other.test\" }}]\n\
             [services.other{round}.backends.main]\nweight = 1\nendpoints = [{:?}]\n\
             [timeouts]\nkeep_alive = \"{}m\"\n",
            blue.url(),
            5 + round
        )
}

#[tokio::test]
async fn a_hundred_reloads_in_a_row_lose_no_request_and_close_no_connection() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let mut proxy = Setup::new().workers(2).settings(&shop(&blue, &canary, 0)).start().await;
    let load = Load::on(proxy.http(), 6, 2);
    for round in 1..=100 {
        proxy.rewrite(&shop(&blue, &canary, round));
        proxy.reload_well().await;
        load.goes_on(10).await;
    }
    let answered = load.finish().await;
    assert_eq!(blue.requests().len() + canary.requests().len(), answered, "every request came once");
    proxy.metric_becomes("tidegate_reloads_total", "result=\"applied\"", 100).await;
}

#[tokio::test]
async fn refused_files_lose_no_request_either() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let mut proxy = Setup::new().workers(2).settings(&shop(&blue, &canary, 0)).start().await;
    let load = Load::on(proxy.http(), 4, 1);
    for round in 1..=20 {
        proxy.rewrite(&(shop(&blue, &canary, round) + "nonsense = 1\n"));
        assert!(!proxy.reload().await);
        load.goes_on(10).await;
    }
    load.finish().await;
}

#[tokio::test]
async fn wrk_sees_no_error_while_files_and_weights_change() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let mut proxy = Setup::new().workers(2).settings(&shop(&blue, &canary, 0)).start().await;
    let url = format!("http://{}/", proxy.http());
    let wrk =
        tokio::spawn(
            async move { Ran::of(tokio::process::Command::new("wrk").args(["-t1", "-c16", "-d3s", &url])).await },
        );
    eventually("wrk has begun", || !blue.requests().is_empty()).await;
    let mut round = 0;
    while !wrk.is_finished() {
        round += 1;
        proxy.rewrite(&shop(&blue, &canary, round));
        proxy.reload_well().await;
        proxy.shift(r#"{"blue": 1, "canary": 1}"#).await;
    }
    let ran = wrk.await.expect("wrk is installed");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(!ran.out.contains("Socket errors") && !ran.out.contains("Non-2xx"), "{}", ran.out);
    assert!(round > 3, "{round}");
}

#[tokio::test]
async fn a_listener_that_is_removed_under_load_answers_every_request_it_took() {
    let (blue, other) = (named("blue").await, named("other").await);
    let address = free_address();
    let staying = format!(
        "[services.other]\nroutes = [{{ host = \"other.test\" }}]\n\
         [services.other.backends.main]\nweight = 1\nendpoints = [{:?}]\n{}",
        other.url(),
        backend("blue", 1.0, &blue)
    );
    let mut proxy =
        Setup::new().workers(2).settings(&format!("[[listeners]]\naddress = \"{address}\"\n{staying}")).start().await;
    let load = Load::on(proxy.http(), 3, 1);
    let clients: Vec<_> = (0..6).map(|_| tokio::spawn(ask_until_closed(address))).collect();
    load.goes_on(50).await;
    proxy.rewrite(&staying);
    proxy.reload_well().await;
    let mut answered = 0;
    for client in clients {
        answered += client.await.expect("no answer breaks off");
    }
    load.goes_on(50).await;
    load.finish().await;
    assert_eq!(other.requests().len(), answered, "every request that was taken is answered");
}

/// Asks on one connection until it is closed; the number of answers. A connection that idles may be closed while
/// the next request is on its way, as ever with HTTP/1; that request was not taken.
async fn ask_until_closed(address: SocketAddr) -> usize {
    let mut wire = Wire::connect(address).await;
    let mut answered = 0;
    while wire.try_send("GET / HTTP/1.1\r\nhost: other.test\r\n\r\n").await.is_ok() {
        let Some(head) = wire.next_head().await else { break };
        assert_eq!((head.status(), wire.bytes(5).await), (200, b"other".to_vec()));
        answered += 1;
        if head.value("connection") == Some("close") {
            assert_eq!(wire.rest().await, b"");
            break;
        }
    }
    answered
}

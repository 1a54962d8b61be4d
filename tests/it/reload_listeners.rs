//! SIGHUP opens listeners that are new and drains those that are gone.

use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::{Authority, Gate, Setup, Wire, backend, eventually, free_address, get, named};

fn listener(address: SocketAddr) -> String {
    format!("[[listeners]]\naddress = \"{address}\"\n")
}

#[tokio::test]
async fn an_added_listener_accepts_on_every_worker() {
    let blue = named("blue").await;
    let address = free_address();
    let mut proxy = Setup::new().workers(4).settings(&backend("blue", 1.0, &blue)).start().await;
    proxy.rewrite(&(listener(address) + &backend("blue", 1.0, &blue)));
    proxy.reload_well().await;
    for _ in 0..32 {
        assert_eq!(Wire::connect(address).await.exchange(get("/", "")).await.text(), "blue");
    }
    assert_eq!(proxy.fetch("/").await.text(), "blue");
}

#[tokio::test]
async fn a_removed_listener_closes_idle_connections_and_finishes_requests() {
    let gate = Gate::shut().await;
    let shop = backend("blue", 1.0, &gate.upstream);
    let address = free_address();
    let mut proxy = Setup::new().workers(2).settings(&(listener(address) + &shop)).start().await;
    let mut silent = Wire::connect(address).await;
    let mut parked = Wire::connect(address).await;
    parked.exchange(get("/", "")).await;
    proxy.metric_becomes("tidegate_connections_parked", "", 1).await;
    let mut idle = Wire::connect(address).await;
    idle.exchange(get("/", "")).await;
    let (mut held, mut half, mut socket) =
        (Wire::connect(address).await, Wire::connect(address).await, Wire::connect(address).await);
    held.send(get("/held", "")).await;
    half.send(get("/half", "")).await;
    half.head().await;
    socket.open_socket().await;
    gate.received("/held").await;
    let mut other = proxy.connect().await;
    other.exchange(get("/", "")).await;

    proxy.rewrite(&shop);
    proxy.reload_well().await;
    for wire in [&mut silent, &mut parked, &mut idle] {
        assert_eq!(wire.rest().await, b"");
    }
    assert!(TcpStream::connect(address).is_err(), "new connections are refused");
    socket.assert_echo("a tunnel lasts").await;
    gate.open();
    let answer = held.answer().await;
    assert_eq!((answer.status(), answer.head.value("connection")), (200, Some("close")));
    assert_eq!(held.rest().await, b"");
    assert_eq!(half.bytes(10).await, b"firstafter");
    assert_eq!(half.rest().await, b"");
    let answer = other.exchange(get("/", "")).await;
    assert_eq!(answer.head.value("connection"), None, "the listener that stays isn't touched");

    // It can be had again, by others or by us.
    drop(TcpListener::bind(address).expect("the address is free"));
    proxy.rewrite(&(listener(address) + &shop));
    proxy.reload_well().await;
    assert_eq!(Wire::connect(address).await.exchange(get("/", "")).await.status(), 200);
}

#[tokio::test]
async fn a_listener_that_comes_and_goes_under_signals_ends_as_the_file_says() {
    let blue = named("blue").await;
    let shop = backend("blue", 1.0, &blue);
    let address = free_address();
    let mut proxy = Setup::new().workers(2).settings(&shop).start().await;
    for _ in 0..10 {
        proxy.rewrite(&(listener(address) + &shop));
        proxy.reload_well().await;
        assert_eq!(Wire::connect(address).await.exchange(get("/", "")).await.status(), 200);
        proxy.rewrite(&shop);
        proxy.reload_well().await;
        assert!(TcpStream::connect(address).is_err());
    }
    assert_eq!(proxy.fetch("/").await.status(), 200);
}

#[tokio::test]
async fn a_taken_address_refuses_the_whole_file() {
    let (blue, green) = (named("blue").await, named("green").await);
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let taken_address = taken.local_addr().expect("a bound socket has an address");
    let free = free_address();
    let mut proxy = Setup::new().workers(2).settings(&backend("blue", 1.0, &blue)).start().await;
    proxy.rewrite(&(listener(free) + &listener(taken_address) + &backend("blue", 1.0, &green)));
    assert!(!proxy.reload().await);
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    assert!(TcpStream::connect(free).is_err(), "nothing of the file is applied");
    let told = proxy.view("/v1/services").await["process"]["last_reload"]["messages"].to_string();
    assert!(told.contains(&format!("can't listen on {taken_address}")), "{told}");
    assert!(told.contains("hint: another process listens there"), "{told}");

    drop(taken);
    proxy.reload_well().await;
    for address in [free, taken_address] {
        assert_eq!(Wire::connect(address).await.exchange(get("/", "")).await.text(), "green");
    }
}

#[tokio::test]
async fn a_listener_may_turn_to_tls_and_back() {
    let (blue, authority) = (named("blue").await, Authority::new());
    let pair = authority.pair(&["shop.test"]);
    let shop = backend("blue", 1.0, &blue);
    let address = free_address();
    let setup = Setup::new().file("late.pem", &pair.cert).file("late.key", &pair.key);
    let mut proxy = setup.settings(&(listener(address) + &shop)).start().await;
    let mut plain = Wire::connect(address).await;
    assert_eq!(plain.exchange(get("/", "")).await.status(), 200);

    let tls = "tls = [{ cert = \"late.pem\", key = \"late.key\" }]\n";
    proxy.rewrite(&(listener(address) + tls + &shop));
    proxy.reload_well().await;
    let mut secure = Wire::new(authority.connect(address, "shop.test", &["http/1.1"]).await);
    assert_eq!(secure.exchange(get("/", "")).await.status(), 200);
    assert_eq!(plain.exchange(get("/", "")).await.status(), 200, "what is open stays as it is");

    proxy.rewrite(&(listener(address) + &shop));
    proxy.reload_well().await;
    assert_eq!(Wire::connect(address).await.exchange(get("/", "")).await.status(), 200);
    assert_eq!(secure.exchange(get("/", "")).await.status(), 200);
}

#[tokio::test]
async fn new_timeouts_hold_for_connections_that_are_open() {
    let blue = named("blue").await;
    let shop = backend("blue", 1.0, &blue);
    let mut proxy = Setup::new().settings(&shop).start().await;
    let mut client = proxy.connect().await;
    client.exchange(get("/", "")).await;
    proxy.rewrite(&format!("{shop}[timeouts]\nkeep_alive = \"100ms\"\n"));
    proxy.reload_well().await;
    client.exchange(get("/", "")).await;
    assert_eq!(client.rest().await, b"");
    eventually("its endpoint's connection idles out", || blue.open() == 0).await;
}

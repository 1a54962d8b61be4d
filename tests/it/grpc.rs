//! gRPC, with tonic's own services at both ends: unary, streaming one way and both, and statuses in trailers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic::codegen::Service;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Shown;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient as OldReflectionClient;

use crate::support::{Authority, Grpc, Proxy, Refusing, ServingStatus, Setup, connect, within};

/// Connects tonic to the proxy by TLS.
struct Secure {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Service<Uri> for Secure {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = connect(Arc::clone(&self.config), self.address, "shop.test");
        Box::pin(async { connecting.await.map(TokioIo::new) })
    }
}

/// A gRPC server behind a proxy, and a channel to it with TLS and one without.
async fn both_ways() -> (Grpc, Proxy, [Channel; 2]) {
    let server = Grpc::start().await;
    let authority = Authority::new();
    let setup = Setup::new().certificate(&authority.pair(&["shop.test"]));
    let proxy = setup.backend(&[format!("http://{}", server.address)], "protocol = \"h2\"").start().await;
    let secure = Secure { config: Arc::new(authority.client(&["h2"])), address: proxy.https() };
    let plain = Endpoint::try_from(format!("http://{}", proxy.http())).expect("a URI is a URI");
    let any = Endpoint::from_static("http://shop.test");
    let channels = [
        within("a TLS channel", any.connect_with_connector(secure)).await.expect("it connects"),
        within("a channel", plain.connect()).await.expect("it connects"),
    ];
    (server, proxy, channels)
}

fn asking(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn a_unary_call_is_answered_and_a_refusal_keeps_its_status() {
    let (_server, _proxy, channels) = both_ways().await;
    for channel in channels {
        let mut health = HealthClient::new(channel);
        let answer = within("an answer", health.check(asking("shop"))).await.expect("it is known");
        assert_eq!(answer.into_inner().status(), Shown::Serving);
        // The head of this answer is its trailers, too.
        let status = within("an answer", health.check(asking("unknown"))).await.expect_err("nobody knows it");
        assert_eq!((status.code(), status.message()), (Code::NotFound, "service not registered"));
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unimplemented() {
    let (_server, _proxy, channels) = both_ways().await;
    for channel in channels {
        let mut old = OldReflectionClient::new(channel);
        let calling = old.server_reflection_info(futures_util::stream::empty());
        let status = within("an answer", calling).await.expect_err("only the new one is served");
        assert_eq!(status.code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn a_call_that_no_endpoint_answers_is_unavailable() {
    let nobody = Refusing::new();
    let proxy = Setup::new().backend(&[nobody.url()], "protocol = \"h2\"").impatient().start().await;
    let front = Endpoint::try_from(format!("http://{}", proxy.http())).expect("a URI is a URI");
    let mut health = HealthClient::new(within("a channel", front.connect()).await.expect("it connects"));
    let status = within("an answer", health.check(asking("shop"))).await.expect_err("nobody answers");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_stream_of_answers_arrives_as_it_is_sent() {
    let (server, _proxy, channels) = both_ways().await;
    for channel in channels {
        server.reporter.set_service_status("shop", ServingStatus::Serving).await;
        let mut health = HealthClient::new(channel);
        let watching = within("the head", health.watch(asking("shop"))).await.expect("it is known");
        let mut statuses = watching.into_inner();
        for (shown, next) in [
            (Shown::Serving, ServingStatus::NotServing),
            (Shown::NotServing, ServingStatus::Serving),
            (Shown::Serving, ServingStatus::Unknown),
        ] {
            let message = within("a status", statuses.message()).await.expect("the stream is open");
            assert_eq!(message.expect("the stream goes on").status(), shown);
            server.reporter.set_service_status("shop", next).await;
        }
    }
}

#[tokio::test]
async fn questions_and_answers_take_turns_on_one_stream() {
    let (_server, _proxy, channels) = both_ways().await;
    for channel in channels {
        let (ask, questions) = mpsc::channel(8);
        let question = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        ask.try_send(question(MessageRequest::ListServices(String::new()))).expect("the stream is open");
        let mut reflection = ServerReflectionClient::new(channel);
        let calling = reflection.server_reflection_info(ReceiverStream::new(questions));
        let mut answers = within("the head", calling).await.expect("it is served").into_inner();
        let mut next = async || {
            let message = within("an answer", answers.message()).await.expect("the stream is open");
            message.map(|message| message.message_response.expect("there is an answer"))
        };
        let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("no list") };
        let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
        for _ in 0..3 {
            let symbol = MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned());
            ask.try_send(question(symbol)).expect("the stream is open");
            assert!(matches!(next().await, Some(MessageResponse::FileDescriptorResponse(_))));
        }
        drop(ask);
        assert!(next().await.is_none());
    }
}

//! A gRPC server, tonic's own.

use std::net::SocketAddr;

use tokio::task::AbortHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
pub use tonic_health::ServingStatus;
use tonic_health::pb;
use tonic_health::server::HealthReporter;

/// A tonic server of health and reflection; gone when dropped.
pub struct Grpc {
    pub address: SocketAddr,
    pub reporter: HealthReporter,
    serving: AbortHandle,
}

impl Grpc {
    pub async fn start() -> Self {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("loopback has free ports");
        let address = incoming.local_addr().expect("a bound socket has an address");
        let (reporter, health) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("the descriptors are tonic's own");
        let server = Server::builder().add_service(health).add_service(reflection);
        let serving = tokio::spawn(async { server.serve_with_incoming(incoming).await.expect("it serves") });
        reporter.set_service_status("shop", ServingStatus::Serving).await;
        Self { address, reporter, serving: serving.abort_handle() }
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

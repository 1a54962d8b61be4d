//! The real process between real sockets. Each test is a sentence; it starts its own proxy in front of its own
//! endpoints and looks at what the client got and at what the endpoint received.

mod support;

mod bodies;
mod events;
mod grpc;
mod headers;
mod http1_connections;
mod http1_messages;
mod http2_clients;
mod http2_endpoints;
mod pools;
mod tls;
mod tunnels;
mod websockets;

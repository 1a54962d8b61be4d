//! The real process between real sockets. Each test is a sentence; it starts its own proxy in front of its own
//! endpoints and looks at what the client got and at what the endpoint received.

#![allow(unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "panics and prints are how a test speaks")]

mod support;

mod access;
mod access_log;
mod admin;
mod bodies;
mod client_certificates;
mod command_line;
mod compression;
mod concurrency;
mod connections;
mod dora;
mod ejection;
mod errors;
mod events;
mod forwarding;
mod grpc;
mod guard;
mod header_changes;
mod headers;
mod health;
mod hedging;
mod history;
mod hold;
mod host_names;
mod hostile_endpoints;
mod http1_connections;
mod http1_messages;
mod http2_clients;
mod http2_endpoints;
mod http2_floods;
mod http2_to_http1;
mod lifecycle;
mod limits;
mod maintenance;
mod metrics;
mod mirror;
mod mirror_answers;
mod mirror_limits;
mod mirror_live;
mod mirror_shadows;
mod notify;
mod overload;
mod paths;
mod pools;
mod proxy_protocol;
mod reload;
mod reload_certificates;
mod reload_listeners;
mod reload_under_load;
mod request_ids;
mod rescue;
mod restarts;
mod retries;
mod rollout;
mod rollout_durability;
mod rollout_strategies;
mod rolls;
mod routing;
mod second_process;
mod shadow;
mod shutdown;
mod smuggling;
mod split;
mod stalls;
mod sticky;
mod swaps;
mod tls;
mod tunnels;
mod websockets;
mod weights;

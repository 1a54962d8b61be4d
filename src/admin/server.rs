//! The server around the calls.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use tokio::sync::watch;
use tracing::error;

use super::api::{self, ApiError};
use super::{dora, events, guard, rollouts, rolls};
use crate::config::Secret;
use crate::control::{Control, see_through};
use crate::guard::Questions;
use crate::observe::{ProcessMetrics, Renderer};
use crate::rollout::Rollouts;
use crate::shadow::Results;

/// The largest body of a call: a thousand backends' weights fit many times.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the calls work on.
#[derive(Debug, Clone)]
pub struct Admin {
    pub(super) control: Arc<Control>,
    pub(super) process: Arc<ProcessMetrics>,
    pub(super) renderer: Arc<Renderer>,
    pub(super) trials: Questions,
    pub(super) shadows: Results,
    pub(super) rollouts: Rollouts,
    pub(super) ready: watch::Receiver<bool>,
    token: Option<Secret>,
}

impl Admin {
    #[must_use]
    pub fn new(
        control: Arc<Control>,
        process: Arc<ProcessMetrics>,
        trials: Questions,
        shadows: Results,
        rollouts: Rollouts,
        ready: watch::Receiver<bool>,
        token: Option<Secret>,
    ) -> Self {
        let renderer = Arc::new(Renderer::new(Arc::clone(&process)));
        Self { control, process, renderer, trials, shadows, rollouts, ready, token }
    }
}

/// Answers calls for as long as the process lives, draining included.
pub async fn serve(sockets: Vec<TcpListener>, admin: Admin) {
    let guarded = Router::new()
        .route("/v1/services", get(api::services))
        .route("/v1/services/{service}", get(api::service))
        .route("/v1/services/{service}/weights", put(api::put_weights).delete(api::delete_weights))
        .route("/v1/services/{service}/hold", put(api::put_hold).delete(api::delete_hold))
        .route("/v1/services/{service}/mirror", get(api::mirror).put(api::put_mirror))
        .route("/v1/services/{service}/mirror/reset", post(api::reset_mirror))
        .route("/v1/services/{service}/backends/{backend}/drain", put(api::put_drain).delete(api::delete_drain))
        .route(
            "/v1/services/{service}/backends/{backend}/endpoints/{address}/drain",
            put(api::put_endpoint_drain).delete(api::delete_endpoint_drain),
        )
        .route("/v1/services/{service}/backends/{backend}/endpoints", get(rolls::endpoints))
        .route("/v1/services/{service}/backends/{backend}/rolls", post(rolls::begin))
        .route("/v1/services/{service}/backends/{backend}/rolls/{roll}", put(rolls::renew))
        .route("/v1/services/{service}/backends/{backend}/rolls/{roll}/end", post(rolls::end))
        .route("/v1/services/{service}/swaps", post(rolls::swapped))
        .route("/v1/services/{service}/rollouts", get(rollouts::list).post(rollouts::deploy))
        .route("/v1/services/{service}/rollouts/{rollout}", get(rollouts::one))
        .route("/v1/services/{service}/rollouts/{rollout}/{word}", post(rollouts::say))
        .route("/v1/guard", get(api::guard).put(api::put_guard))
        .route("/v1/dora", get(dora::dora))
        .route("/v1/events", get(events::events))
        .route("/metrics", get(api::metrics))
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::wrong_method)
        .layer(from_fn(change))
        .layer(from_fn_with_state(admin.clone(), check));
    // Probes come from machines that know neither token nor name, and learn nothing but yes or no.
    let router = Router::new()
        .route("/livez", get(api::livez))
        .route("/readyz", get(api::readyz))
        .method_not_allowed_fallback(api::wrong_method)
        .merge(guarded)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin);
    for socket in sockets {
        let served = match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => axum::serve(listener, router.clone()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            error!(%error, "the admin API stopped");
        }
    }
}

/// Sees through what changes something.
async fn change(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    see_through(next.run(request)).await.unwrap_or_else(|error| {
        error!(%error, "a call to the admin API broke off");
        let error = "the call broke off; tidegate's log says why".to_owned();
        ApiError { status: StatusCode::INTERNAL_SERVER_ERROR, error }.into_response()
    })
}

async fn check(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    match guard::check(request.headers(), admin.token.as_ref()) {
        Ok(()) => next.run(request).await,
        Err(denied) => ApiError { status: denied.status, error: denied.reason.to_owned() }.into_response(),
    }
}

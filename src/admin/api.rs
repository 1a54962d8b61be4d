//! The calls. GET never changes anything.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tracing::info;

use super::Admin;
use super::view::{ErrorView, ServiceView, ServicesView, WeightsBody};
use crate::state::{Change, Refused, WeightsChange};

/// A call that failed: its status and what to tell the caller.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) error: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorView { error: self.error })).into_response()
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::NoService { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self { status, error: refused.to_string() }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self { status: rejection.status(), error: rejection.body_text() }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self { status: rejection.status(), error: rejection.body_text() }
    }
}

/// `GET /v1/services`
pub(super) async fn services(State(admin): State<Admin>) -> Json<ServicesView> {
    Json(ServicesView::new(&admin.store.current(), &admin.process))
}

/// `GET /v1/services/{service}`
pub(super) async fn service(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ServiceView>, ApiError> {
    let Path(name) = name?;
    view(&admin, &name)
}

/// `PUT /v1/services/{service}/weights`: all weights at once. Once this has answered, the next request on every
/// worker sees them.
pub(super) async fn put_weights(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    body: Result<Json<WeightsBody>, JsonRejection>,
) -> Result<Json<ServiceView>, ApiError> {
    let Path(name) = name?;
    let Json(WeightsBody(weights)) = body?;
    let change = WeightsChange { service: name.clone(), weights };
    let version = admin.store.apply(Change::Weights(change.clone()))?;
    let weights: Vec<String> = change.weights.iter().map(|(backend, weight)| format!("{backend}={weight}")).collect();
    info!(service = %name, weights = %weights.join(" "), version, "weights changed");
    view(&admin, &name)
}

fn view(admin: &Admin, name: &str) -> Result<Json<ServiceView>, ApiError> {
    let snapshot = admin.store.current();
    let known = || snapshot.services.iter().map(|service| service.name().clone()).collect();
    let service = snapshot.service(name).ok_or_else(|| Refused::NoService { name: name.to_owned(), known: known() })?;
    Ok(Json(ServiceView::new(service)))
}

/// `GET /metrics`
pub(super) async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let page = admin.renderer.render(&admin.store.current());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page)
}

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> &'static str {
    "live\n"
}

/// `GET /readyz`: new connections are welcome; not while draining.
pub(super) async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if *admin.ready.borrow() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "draining\n") }
}

pub(super) async fn not_found() -> ApiError {
    let error = "there is no such call; see GET /v1/services, GET /v1/services/{service}, \
                 PUT /v1/services/{service}/weights, GET /metrics, GET /livez, GET /readyz";
    ApiError { status: StatusCode::NOT_FOUND, error: error.to_owned() }
}

pub(super) async fn wrong_method() -> ApiError {
    ApiError { status: StatusCode::METHOD_NOT_ALLOWED, error: "this call takes another method".to_owned() }
}

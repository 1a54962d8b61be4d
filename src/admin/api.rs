//! The calls. GET never changes anything.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::view::{
    DrainBody, ErrorView, GuardView, HoldBody, MirrorBody, ServiceView, ServicesView, ShadowsView, WeightsBody,
};
use crate::control::{ControlError, HOLD_REQUESTS};
use crate::journal::WriteError;
use crate::model::parse_duration;
use crate::state::{Refused, named_service};

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

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let status = match error {
            ControlError::Refused(refused) => return refused.into(),
            ControlError::Outdated { .. } => StatusCode::PRECONDITION_FAILED,
            ControlError::RolloutUnderWay { .. } | ControlError::Busy(_) => StatusCode::CONFLICT,
            ControlError::Journal(_) | ControlError::ReadOnly { .. } | ControlError::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self { status, error: error.to_string() }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error: error.to_string() }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self { status: rejection.status(), error: rejection.body_text() }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
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
    let journal = admin.control.journal().err().map(|error| error.to_string());
    let guard = *admin.control.guard().borrow();
    let mut all = ServicesView::new(&admin.control.store().current(), &admin.process, journal, guard);
    all.services = all.services.into_iter().map(|service| service.compared(&admin.shadows)).collect();
    Json(all)
}

/// `GET /v1/services/{service}`
pub(super) async fn service(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Tagged, ApiError> {
    let Path(name) = name?;
    view(&admin, &name).await
}

/// A service and the tag of its revision.
type Tagged = ([(HeaderName, String); 1], Json<ServiceView>);

/// `PUT /v1/services/{service}/weights`: all weights at once. Once this has answered, the next request on every
/// worker sees them.
pub(super) async fn put_weights(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Json<WeightsBody>, JsonRejection>,
) -> Result<Tagged, ApiError> {
    let Path(name) = name?;
    let Json(WeightsBody(weights)) = body?;
    admin.control.set_weights(&name, Some(weights), caller(&headers), expected(&headers)?).await?;
    view(&admin, &name).await
}

/// `DELETE /v1/services/{service}/weights`: the file's weights again.
pub(super) async fn delete_weights(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Tagged, ApiError> {
    let Path(name) = name?;
    admin.control.set_weights(&name, None, caller(&headers), expected(&headers)?).await?;
    view(&admin, &name).await
}

/// `PUT /v1/services/{service}/backends/{backend}/drain`: it gets no new requests, whatever its weight. Once this has
/// answered, the next request on every worker goes elsewhere.
pub(super) async fn put_drain(
    State(admin): State<Admin>,
    names: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Tagged, ApiError> {
    const REASON_BYTES_MAX: usize = 1024;
    let Path((service, backend)) = names?;
    let body = body?;
    let DrainBody { reason } = if body.is_empty() {
        DrainBody::default()
    } else {
        let bad = |error: serde_json::Error| ApiError { status: StatusCode::BAD_REQUEST, error: error.to_string() };
        serde_json::from_slice(&body).map_err(bad)?
    };
    let reason = reason.filter(|reason| !reason.trim().is_empty());
    if let Some(bytes) = reason.as_ref().map(String::len).filter(|bytes| *bytes > REASON_BYTES_MAX) {
        let error = format!("a reason has {REASON_BYTES_MAX} bytes at most, and this one has {bytes}; say it shorter");
        return Err(ApiError { status: StatusCode::BAD_REQUEST, error });
    }
    admin.control.drain(&service, &backend, reason, caller(&headers), expected(&headers)?).await?;
    view(&admin, &service).await
}

/// `DELETE /v1/services/{service}/backends/{backend}/drain`: what its weight says again; the guard judges it anew.
pub(super) async fn delete_drain(
    State(admin): State<Admin>,
    names: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Tagged, ApiError> {
    let Path((service, backend)) = names?;
    admin.control.undrain(&service, &backend, caller(&headers), expected(&headers)?).await?;
    view(&admin, &service).await
}

/// `PUT /v1/services/{service}/backends/{backend}/endpoints/{address}/drain`: it gets no new requests.
pub(super) async fn put_endpoint_drain(
    State(admin): State<Admin>,
    names: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Tagged, ApiError> {
    drain_endpoint(&admin, names, &headers, true).await
}

/// `DELETE …/endpoints/{address}/drain`: it gets requests again.
pub(super) async fn delete_endpoint_drain(
    State(admin): State<Admin>,
    names: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Tagged, ApiError> {
    drain_endpoint(&admin, names, &headers, false).await
}

async fn drain_endpoint(
    admin: &Admin,
    names: Result<Path<(String, String, String)>, PathRejection>,
    headers: &HeaderMap,
    drained: bool,
) -> Result<Tagged, ApiError> {
    let Path((service, backend, address)) = names?;
    admin.control.set_endpoint_drained(&service, &backend, &address, drained, caller(headers)).await?;
    view(admin, &service).await
}

/// `PUT /v1/services/{service}/mirror`: how much of it is copied to a backend that the file mirrors it to.
pub(super) async fn put_mirror(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Json<MirrorBody>, JsonRejection>,
) -> Result<Tagged, ApiError> {
    let Path(name) = name?;
    let Json(MirrorBody { backend, percent }) = body?;
    admin.control.set_mirror(&name, &backend, percent, caller(&headers), expected(&headers)?).await?;
    view(&admin, &name).await
}

/// `GET /v1/guard`: the most that the guard may do anywhere.
pub(super) async fn guard(State(admin): State<Admin>) -> Json<GuardView> {
    Json(GuardView { at_most: *admin.control.guard().borrow() })
}

/// `PUT /v1/guard`: the guard may do no more than this anywhere, whatever the file says.
pub(super) async fn put_guard(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Json<GuardView>, JsonRejection>,
) -> Result<Json<GuardView>, ApiError> {
    let Json(GuardView { at_most }) = body?;
    admin.control.set_guard(at_most, caller(&headers)).await;
    Ok(guard(State(admin)).await)
}

/// `GET /v1/services/{service}/mirror`: where the comparisons of its mirrors stand.
pub(super) async fn mirror(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ShadowsView>, ApiError> {
    let Path(name) = name?;
    shadows(&admin, &name)
}

/// `POST /v1/services/{service}/mirror/reset`: what was known of its mirrors is forgotten.
pub(super) async fn reset_mirror(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<ShadowsView>, ApiError> {
    let Path(name) = name?;
    named_service(&admin.control.store().current(), &name)?;
    let (comparisons, forgotten) = admin.shadows.reset(&name);
    if comparisons > 0 {
        admin.control.note_shadow_reset(&name, comparisons, caller(&headers));
        forgotten.await.map_err(|error| ApiError {
            error: format!("what was known is forgotten, but a restart may bring it back: {error}"),
            ..error.into()
        })?;
    }
    shadows(&admin, &name)
}

fn shadows(admin: &Admin, name: &str) -> Result<Json<ShadowsView>, ApiError> {
    let snapshot = admin.control.store().current();
    let mirrors = named_service(&snapshot, name)?.mirrors.iter().flatten();
    let held_back = mirrors.filter(|mirror| mirror.breaker.is_open()).map(|mirror| mirror.backend.to_string());
    Ok(Json(ShadowsView { service: name.to_owned(), mirrors: admin.shadows.of(name), held_back: held_back.collect() }))
}

/// `PUT /v1/services/{service}/hold`: new requests wait, once this has answered, for as long as the body says.
pub(super) async fn put_hold(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Json<HoldBody>, JsonRejection>,
) -> Result<Tagged, ApiError> {
    let Path(name) = name?;
    let Json(HoldBody { time, requests }) = body?;
    let time = parse_duration(&time).map_err(|error| ApiError {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        error: format!("\"for\" is no duration like \"30s\": {error}"),
    })?;
    admin.control.hold(&name, time, requests.unwrap_or(HOLD_REQUESTS), caller(&headers)).await?;
    view(&admin, &name).await
}

/// `DELETE /v1/services/{service}/hold`: requests that wait go on, in order.
pub(super) async fn delete_hold(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Tagged, ApiError> {
    let Path(name) = name?;
    admin.control.release(&name, caller(&headers)).await?;
    view(&admin, &name).await
}

/// Who calls, in their own words, for the history; whoever may call at all is trusted to say who they are.
pub(super) fn caller(headers: &HeaderMap) -> &str {
    const CALLER_BYTES_MAX: usize = 128;
    let said = headers.get("tidegate-by").and_then(|value| value.to_str().ok()).map_or("", str::trim);
    if said.is_empty() || said.len() > CALLER_BYTES_MAX { "api" } else { said }
}

/// The revision that the caller has seen, where it says so.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(tag) = headers.get(IF_MATCH).filter(|tag| *tag != "*") else { return Ok(None) };
    let revision = tag.to_str().ok().and_then(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    let error = || ApiError {
        status: StatusCode::BAD_REQUEST,
        error: "If-Match takes one ETag, as GET /v1/services/{service} sends it".to_owned(),
    };
    revision.map(Some).ok_or_else(error)
}

async fn view(admin: &Admin, name: &str) -> Result<Tagged, ApiError> {
    let snapshot = admin.control.store().current();
    let service = named_service(&snapshot, name)?;
    let mut view = ServiceView::new(service).compared(&admin.shadows);
    view.journal_problem = admin.control.journal().err().map(|error| error.to_string());
    view.trials = admin.trials.trials().await.into_iter().filter(|trial| trial.service == name).collect();
    Ok(([(ETAG, format!("\"{}\"", service.revision))], Json(view)))
}

/// `GET /metrics`
pub(super) async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let page = admin.renderer.render(&admin.control.store().current());
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
                 PUT and DELETE /v1/services/{service}/weights, PUT and DELETE /v1/services/{service}/hold, \
                 GET and PUT /v1/services/{service}/mirror, POST /v1/services/{service}/mirror/reset, \
                 PUT and DELETE /v1/services/{service}/backends/{backend}/drain, \
                 PUT and DELETE /v1/services/{service}/backends/{backend}/endpoints/{address}/drain, \
                 GET /v1/services/{service}/backends/{backend}/endpoints, \
                 POST /v1/services/{service}/backends/{backend}/rolls, PUT .../rolls/{id}, POST .../rolls/{id}/end, \
                 POST /v1/services/{service}/swaps, \
                 GET and POST /v1/services/{service}/rollouts, GET /v1/services/{service}/rollouts/{id}, \
                 POST /v1/services/{service}/rollouts/{id}/{pause, resume, promote, approve, abort or rollback}, \
                 GET and PUT /v1/guard, GET /v1/events, GET /v1/dora, GET /metrics, GET /livez, GET /readyz";
    ApiError { status: StatusCode::NOT_FOUND, error: error.to_owned() }
}

pub(super) async fn wrong_method() -> ApiError {
    ApiError { status: StatusCode::METHOD_NOT_ALLOWED, error: "this call takes another method".to_owned() }
}

//! Calls about rolls, and about single endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Admin;
use super::api::{ApiError, caller};
use super::view::{EndBody, EndpointsView, ReadinessView, RenewBody, RollBody, RollView};
use crate::control::ROLL_LEASE;
use crate::model::{RollOutcome, parse_duration};
use crate::state::{Refused, named_service};
use crate::upstream::Endpoint;

/// An endpoint that doesn't accept a connection within this isn't ready.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// What is kept of a reason, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// `POST /v1/services/{service}/backends/{backend}/rolls`: a roll begins; it ends by itself unless it is renewed.
pub(super) async fn begin(
    State(admin): State<Admin>,
    names: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Result<Json<RollBody>, JsonRejection>,
) -> Result<(StatusCode, Json<RollView>), ApiError> {
    let Path((service, backend)) = names?;
    let Json(RollBody { lease, revision }) = body?;
    let lease = lease.map(|text| parse_duration(&text)).transpose().map_err(|error| ApiError {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        error: format!("\"lease\" is no duration like \"15s\": {error}"),
    })?;
    let lease = lease.unwrap_or(ROLL_LEASE);
    let roll = admin.control.begin_roll(&service, &backend, lease, revision, caller(&headers)).await?;
    Ok((StatusCode::CREATED, Json(RollView::new(roll))))
}

/// `PUT /v1/services/{service}/backends/{backend}/rolls/{roll}`: it goes on, and these of its endpoints get nothing.
pub(super) async fn renew(
    State(admin): State<Admin>,
    names: Result<Path<(String, String, u64)>, PathRejection>,
    body: Result<Json<RenewBody>, JsonRejection>,
) -> Result<Json<RollView>, ApiError> {
    let Path((service, backend, roll)) = names?;
    let Json(RenewBody { out }) = body?;
    Ok(Json(RollView::new(admin.control.renew_roll(&service, &backend, roll, out).await?)))
}

/// `POST /v1/services/{service}/backends/{backend}/rolls/{roll}/end`: everybody is back.
pub(super) async fn end(
    State(admin): State<Admin>,
    names: Result<Path<(String, String, u64)>, PathRejection>,
    headers: HeaderMap,
    body: Result<Json<EndBody>, JsonRejection>,
) -> Result<Json<EndpointsView>, ApiError> {
    let Path((service, backend, roll)) = names?;
    let Json(EndBody { outcome, reason, .. }) = body?;
    let outcome = said(outcome, &reason)?;
    admin.control.end_roll(&service, &backend, roll, outcome, reason, caller(&headers)).await?;
    view(&admin, &service, &backend).await
}

/// `POST /v1/services/{service}/swaps`: how a swap under a hold went, and what runs there since.
pub(super) async fn swapped(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Json<EndBody>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(name) = name?;
    let Json(EndBody { outcome, reason, revision, backend }) = body?;
    let outcome = said(outcome, &reason)?;
    admin.control.end_swap(&name, backend.as_deref(), outcome, revision, reason, caller(&headers)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/services/{service}/backends/{backend}/endpoints`
pub(super) async fn endpoints(
    State(admin): State<Admin>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<EndpointsView>, ApiError> {
    let Path((service, backend)) = names?;
    view(&admin, &service, &backend).await
}

/// What a caller may say of an end.
fn said(outcome: RollOutcome, reason: &str) -> Result<RollOutcome, ApiError> {
    let refuse = |error: String| Err(ApiError { status: StatusCode::UNPROCESSABLE_ENTITY, error });
    match outcome {
        RollOutcome::Lost => refuse("whoever says so isn't lost: \"completed\" or \"stopped\"".to_owned()),
        _ if reason.len() > REASON_BYTES_MAX || reason.contains(char::is_control) => {
            refuse(format!("a reason is a line of up to {REASON_BYTES_MAX} bytes"))
        }
        outcome => Ok(outcome),
    }
}

async fn view(admin: &Admin, service: &str, backend: &str) -> Result<Json<EndpointsView>, ApiError> {
    let snapshot = admin.control.store().current();
    let found = named_service(&snapshot, service)?;
    let known = || found.backends.iter().map(|backend| backend.name.clone()).collect();
    let named =
        found.backend(backend).ok_or_else(|| Refused::NoBackend { name: backend.to_owned(), known: known() })?;
    let is_checked = found.config.backends.iter().any(|config| config.name == named.name && config.health.is_some());
    let endpoints = named.endpoints.iter().map(|endpoint| {
        let is_idle = endpoint.health.is_rolling() || found.hold.is_some();
        readiness(endpoint, is_checked, is_idle)
    });
    Ok(Json(EndpointsView {
        service: service.to_owned(),
        backend: backend.to_owned(),
        roll: admin.control.roll_of(found.name()).map(RollView::new),
        endpoints: join_all(endpoints).await,
    }))
}

async fn readiness(endpoint: &Arc<Endpoint>, is_checked: bool, is_idle: bool) -> ReadinessView {
    let (checks, error) = {
        let notes = endpoint.health.notes();
        (notes.checks, notes.check_error.clone())
    };
    let (ready, reason) = match (is_checked, is_idle) {
        (true, _) if checks == 0 => (Some(false), Some("it wasn't checked yet".to_owned())),
        (true, _) => (Some(error.is_none()), error),
        (false, true) => {
            let refused = connects(endpoint.identity.address).await.err();
            (Some(refused.is_none()), refused)
        }
        (false, false) => (None, None),
    };
    ReadinessView {
        address: endpoint.identity.address.to_string(),
        host: endpoint.identity.host.clone(),
        port: endpoint.identity.address.port(),
        state: endpoint.health.availability().label().to_owned(),
        in_flight: endpoint.health.in_flight(),
        checks: is_checked.then_some(checks),
        ready,
        reason,
    }
}

async fn connects(address: SocketAddr) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it didn't accept a connection within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

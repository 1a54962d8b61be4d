//! Calls about rollouts.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, HeaderName, StatusCode};

use super::Admin;
use super::api::{ApiError, caller, expected};
use crate::rollout::{DeployBody, Fresh, RolloutError, RolloutView, RolloutsView, Word, WordBody};

/// The latest, where a rollout's number is asked for.
const LATEST: &str = "latest";

/// A rollout and the tag of its version.
type Tagged = ([(HeaderName, String); 1], Json<RolloutView>);

impl From<RolloutError> for ApiError {
    fn from(error: RolloutError) -> Self {
        let status = match error {
            RolloutError::Control(error) => return error.into(),
            RolloutError::Conflict(_) | RolloutError::Frozen { .. } => StatusCode::CONFLICT,
            RolloutError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            RolloutError::NoRollout { .. } => StatusCode::NOT_FOUND,
            RolloutError::Outdated { .. } => StatusCode::PRECONDITION_FAILED,
            RolloutError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, error: error.to_string() }
    }
}

/// `POST /v1/services/{service}/rollouts`: a revision and where it runs. 201 once it is in its backend and its rollout has
/// begun; 200 where it is there already.
pub(super) async fn deploy(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Json<DeployBody>, JsonRejection>,
) -> Result<(StatusCode, Tagged), ApiError> {
    let Path(name) = name?;
    let Json(body) = body?;
    let (view, fresh) = admin.rollouts.deploy(&name, body, caller(&headers), expected(&headers)?).await?;
    let status = match fresh {
        Fresh::Begun => StatusCode::CREATED,
        Fresh::Known => StatusCode::OK,
    };
    Ok((status, tagged(view)))
}

/// `GET /v1/services/{service}/rollouts`: the latest first.
pub(super) async fn list(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<RolloutsView>, ApiError> {
    let Path(name) = name?;
    Ok(Json(admin.rollouts.list(&name).await?))
}

/// `GET /v1/services/{service}/rollouts/{id}`, or `latest`.
pub(super) async fn one(
    State(admin): State<Admin>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Tagged, ApiError> {
    let Path((name, id)) = names?;
    let id = parse_id(&id)?;
    let all = admin.rollouts.list(&name).await?.rollouts;
    let found = all.into_iter().find(|rollout| id.is_none_or(|id| rollout.id == id));
    found.map(tagged).ok_or_else(|| RolloutError::NoRollout { service: name, id }.into())
}

/// `POST /v1/services/{service}/rollouts/{id}/{word}`: a person's word. `{"reason": "…"}` and, of `promote`,
/// `{"full": true}`; or no body.
pub(super) async fn say(
    State(admin): State<Admin>,
    names: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Tagged, ApiError> {
    let Path((name, id, word)) = names?;
    let bad = |error: serde_json::Error| ApiError { status: StatusCode::BAD_REQUEST, error: error.to_string() };
    let body: WordBody =
        if body.is_empty() { WordBody::default() } else { serde_json::from_slice(&body).map_err(bad)? };
    let word = match word.as_str() {
        "pause" => Word::Pause,
        "resume" => Word::Resume,
        "promote" if body.full => Word::PromoteFull,
        "promote" => Word::Promote,
        "approve" => Word::Approve,
        "abort" => Word::Abort,
        "rollback" => Word::Rollback,
        _ => {
            let error = format!("{word:?} is none of pause, resume, promote, approve, abort and rollback");
            return Err(ApiError { status: StatusCode::NOT_FOUND, error });
        }
    };
    let id = parse_id(&id)?;
    let view = admin.rollouts.say(&name, id, word, caller(&headers), body, expected(&headers)?).await?;
    Ok(tagged(view))
}

/// `None`: the latest.
fn parse_id(text: &str) -> Result<Option<u64>, ApiError> {
    if text == LATEST {
        return Ok(None);
    }
    let error = || ApiError {
        status: StatusCode::NOT_FOUND,
        error: format!("{text:?} is no rollout: rollouts have numbers, and the last one is {LATEST:?}"),
    };
    text.parse().map(Some).map_err(|_| error())
}

fn tagged(view: RolloutView) -> Tagged {
    ([(ETAG, format!("\"{}\"", view.version))], Json(view))
}

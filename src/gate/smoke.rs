//! Smoke checks: requests that each endpoint of the candidate must answer as expected, over connections as requests have
//! them: with the backend's protocol, TLS and PROXY header, on a thread of their own.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HeaderMap};
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::Standing;
use super::webhook::told;
use crate::config::{SmokeCheck, SmokeConfig};
use crate::health::{BODY_BYTES_MAX, Question, read};
use crate::model::format_duration;
use crate::upstream::Endpoint;

/// Between two tries of one request.
const PAUSE: Duration = Duration::from_millis(500);

/// Sends all of them to all endpoints, one after the other; the first that fails decides.
pub async fn smoke(config: Arc<SmokeConfig>, endpoints: Vec<Arc<Endpoint>>) -> Standing {
    let (tell, heard) = oneshot::channel();
    let work = move || {
        let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
        let run = async {
            let mut tell = tell;
            let standing = tokio::select! {
                standing = all(&config, &endpoints) => standing,
                // Nobody waits any more.
                () = tell.closed() => return,
            };
            let _ = tell.send(standing);
        };
        LocalSet::new().block_on(&runtime, run);
    };
    // What is spoken to endpoints stays on its thread.
    if let Err(error) = std::thread::Builder::new().name("tidegate-smoke".to_owned()).spawn(work) {
        return Standing::Silent(format!("no thread can be started: {error}"));
    }
    heard.await.unwrap_or_else(|_| Standing::Silent("they came to no end".to_owned()))
}

async fn all(config: &SmokeConfig, endpoints: &[Arc<Endpoint>]) -> Standing {
    for endpoint in endpoints {
        for check in &config.checks {
            if let Err(reason) = with_retries(config, check, endpoint).await {
                let SmokeCheck { method, path, .. } = check;
                return Standing::Refused(format!("{method} {path} of {}: {reason}", endpoint.display()));
            }
        }
    }
    Standing::Passed(format!("{} requests, {} endpoints", config.checks.len(), endpoints.len()))
}

async fn with_retries(config: &SmokeConfig, check: &SmokeCheck, endpoint: &Endpoint) -> Result<(), String> {
    let mut left = config.retries;
    loop {
        let answered = timeout(config.timeout, one(check, endpoint)).await;
        let late = |_| Err(format!("no answer within {}", format_duration(config.timeout)));
        let answered = answered.unwrap_or_else(late);
        if answered.is_ok() || left == 0 {
            return answered;
        }
        left -= 1;
        sleep(PAUSE).await;
    }
}

async fn one(check: &SmokeCheck, endpoint: &Endpoint) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.extend(check.headers.iter().cloned());
    let question = Question {
        method: check.method.clone(),
        path: check.path.clone(),
        host: check.host.as_ref(),
        headers,
        body: check.body.clone(),
    };
    let (response, _connection) = question.ask(endpoint).await?;
    let status = response.status();
    if !check.statuses.iter().any(|good| good.contains(&status.as_u16())) {
        return Err(format!("it answered {status}"));
    }
    headers_hold(response.headers(), &check.answer_headers)?;
    if check.json.is_empty() {
        return Ok(());
    }
    let (body, _) = read(response, BODY_BYTES_MAX).await?;
    json_holds(&body, check)
}

fn headers_hold(headers: &HeaderMap, wanted: &[(HeaderName, HeaderValue)]) -> Result<(), String> {
    for (name, value) in wanted {
        if !headers.get_all(name).iter().any(|found| found == value) {
            let found = headers.get(name).map_or("there is none".to_owned(), |found| format!("it is {found:?}"));
            return Err(format!("{name} should be {value:?}, and {found}"));
        }
    }
    Ok(())
}

fn json_holds(body: &[u8], check: &SmokeCheck) -> Result<(), String> {
    let document: Value = serde_json::from_slice(body)
        .map_err(|error| format!("its body is no JSON of at most {} KiB: {error}", BODY_BYTES_MAX / 1024))?;
    for (path, wanted) in &check.json {
        let found = path.select(&document);
        if found.is_empty() {
            return Err(format!("its body has no {path}"));
        }
        if let Some(other) = found.iter().find(|found| !is_same(found, wanted)) {
            return Err(format!("{path} should be {wanted}, and is {}", told(other.to_string().as_bytes())));
        }
    }
    Ok(())
}

/// 1 and 1.0 are the same number.
fn is_same(found: &Value, wanted: &Value) -> bool {
    match (found.as_f64(), wanted.as_f64()) {
        (Some(found), Some(wanted)) => found.total_cmp(&wanted).is_eq(),
        _ => found == wanted,
    }
}

//! Hooks: somebody is told where a rollout stands, and says whether it may go on.
//!
//! 2xx is a yes, every other answer a no. 429, 5xx and silence are tried again, with the same id, so that a receiver can
//! tell; whoever hasn't answered after all that has said nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;

use super::Standing;
use crate::config::WebhookConfig;
use crate::outbound::{Answer, Call, CallError, call};

/// What is read of an answer, and told of it.
const ANSWER_BYTES_MAX: usize = 4096;
const TOLD_BYTES_MAX: usize = 200;
/// Before the second try; doubled for each that follows.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is said to a hook.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The same whenever the same is said.
    pub id: String,
    pub body: Value,
}

/// Tells, and waits for the answer.
pub async fn ask(hook: Arc<WebhookConfig>, notice: Notice) -> Standing {
    let body = Bytes::from(notice.body.to_string());
    let mut pause = PAUSE_MIN;
    for left in (0..=hook.retries).rev() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (id, body) = (Some(notice.id.clone()), body.clone());
        let asked = Call { method: Method::POST, path: None, headers, body, id, answer_bytes_max: ANSWER_BYTES_MAX };
        let answered = call(&hook.to, asked).await;
        if left == 0 || !is_worth_another(&answered) {
            return standing(&answered);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Standing::unasked()
}

fn is_worth_another(answered: &Result<Answer, CallError>) -> bool {
    match answered {
        Ok(answer) => answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS,
        Err(_) => true,
    }
}

fn standing(answered: &Result<Answer, CallError>) -> Standing {
    match answered {
        Err(error) => Standing::Silent(error.to_string()),
        Ok(answer) => {
            let said = told(&answer.body);
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            let text = format!("it answered {}{said}", answer.status);
            if answer.status.is_success() { Standing::Passed(text) } else { Standing::Refused(text) }
        }
    }
}

/// The beginning of what somebody said, in one line.
pub(super) fn told(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TOLD_BYTES_MAX)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace(char::is_control, "")
}

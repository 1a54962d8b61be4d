//! History: a page of it, or a stream that goes on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response, sse};
use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::Admin;
use super::api::ApiError;
use super::view::EventsView;
use crate::journal::{Event, Journal, Query};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// A stream without news says so this often, so that neither side takes the other for gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/events?after=ID&before=ID&service=NAME&limit=N`: the latest events, or those after or before one. With
/// `Accept: text/event-stream`, those and all that follow; `Last-Event-ID` is as good as `after`.
pub(super) async fn events(State(admin): State<Admin>, headers: HeaderMap, uri: Uri) -> Result<Response, ApiError> {
    let journal = admin.control.journal()?;
    let mut query = parse(uri.query().unwrap_or_default()).map_err(bad_request)?;
    let streams = headers.get(ACCEPT).is_some_and(|accept| {
        accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains("text/event-stream"))
    });
    if !streams {
        let page = journal.read(query).await?;
        return Ok(Json(EventsView { events: page.events, more: page.more }).into_response());
    }
    if let Some(last) = headers.get("last-event-id") {
        let id = last.to_str().ok().and_then(|id| id.parse().ok());
        query.after = Some(id.ok_or_else(|| bad_request("Last-Event-ID is the number of an event".to_owned()))?);
    }
    let follow = Follow::new(journal.clone(), query).await?;
    Ok(Sse::new(follow.stream()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn bad_request(error: String) -> ApiError {
    ApiError { status: StatusCode::BAD_REQUEST, error }
}

fn parse(query: &str) -> Result<Query, String> {
    let mut parsed = Query { limit: LIMIT_DEFAULT, ..Query::default() };
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = || value.parse::<u64>().map_err(|_| format!("{key} takes a number, not {value:?}"));
        match &*key {
            "after" => parsed.after = Some(number()?),
            "before" => parsed.before = Some(number()?),
            "limit" => {
                let limit = usize::try_from(number()?).ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                parsed.limit = limit.ok_or_else(|| format!("limit goes from 1 to {LIMIT_MAX}"))?;
            }
            "service" => parsed.service = Some(value.into_owned()),
            _ => return Err(format!("there is no parameter {key:?}; there are: after, before, service, limit")),
        }
    }
    Ok(parsed)
}

/// A reader that keeps up with the journal.
struct Follow {
    journal: Journal,
    query: Query,
    waiting: VecDeque<Event>,
    latest: watch::Receiver<u64>,
}

impl Follow {
    async fn new(journal: Journal, query: Query) -> Result<Self, ApiError> {
        let latest = journal.latest();
        let mut follow = Self { journal, query, waiting: VecDeque::new(), latest };
        // The first page is the latest events, where nothing else was asked for; then whatever comes after.
        follow.read().await?;
        Ok(follow)
    }

    async fn read(&mut self) -> Result<(), ApiError> {
        let seen = *self.latest.borrow_and_update();
        let page = self.journal.read(self.query.clone()).await?;
        let last = page.events.last().map(|event| event.id);
        let from = if page.more && self.query.after.is_some() { last } else { last.max(Some(seen)) };
        self.query.after = from.max(self.query.after);
        self.query.before = None;
        self.waiting.extend(page.events);
        if page.more {
            self.latest.mark_changed();
        }
        Ok(())
    }

    fn stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, |mut follow| async move {
            loop {
                if let Some(event) = follow.waiting.pop_front() {
                    let told = serde_json::to_string(&event).unwrap_or_default();
                    let sent = sse::Event::default().id(event.id.to_string()).event(event.kind).data(told);
                    return Some((Ok(sent), follow));
                }
                // The stream ends with the journal; the client comes back with the last id it has seen.
                follow.latest.changed().await.ok()?;
                follow.read().await.ok()?;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole_or_refused() {
        let wanted =
            Query { after: Some(7), before: Some(9), service: Some("a b".into()), limit: 5, ..Query::default() };
        assert_eq!(parse("after=7&before=9&service=a+b&limit=5"), Ok(wanted));
        assert_eq!(parse("").unwrap().limit, LIMIT_DEFAULT);
        for wrong in ["after=x", "limit=0", "limit=1001", "limit=-1", "since=1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

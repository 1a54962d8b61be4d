//! `GET /v1/dora?service=NAME&days=N`: DORA's four keys, from the history.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};

use super::Admin;
use super::api::ApiError;
use crate::dora::{DAYS, DoraView, read};
use crate::state::named_service;

const DAYS_MAX: u32 = 3_650;

pub(super) async fn dora(State(admin): State<Admin>, uri: Uri) -> Result<Json<DoraView>, ApiError> {
    let (service, days) =
        parse(uri.query().unwrap_or_default()).map_err(|error| ApiError { status: StatusCode::BAD_REQUEST, error })?;
    if let Some(name) = &service {
        named_service(&admin.control.store().current(), name)?;
    }
    Ok(Json(read(admin.control.journal()?, days, service).await?))
}

fn parse(query: &str) -> Result<(Option<String>, u32), String> {
    let (mut service, mut days) = (None, DAYS);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "service" => service = Some(value.into_owned()),
            "days" => {
                let number = value.parse().ok().filter(|days| (1..=DAYS_MAX).contains(days));
                days = number.ok_or_else(|| format!("days goes from 1 to {DAYS_MAX}"))?;
            }
            _ => return Err(format!("there is no parameter {key:?}; there are: service, days")),
        }
    }
    Ok((service, days))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole_or_refused() {
        assert_eq!(parse(""), Ok((None, DAYS)));
        assert_eq!(parse("service=a+b&days=7"), Ok((Some("a b".to_owned()), 7)));
        for wrong in ["days=0", "days=-1", "days=x", "days=3651", "since=1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

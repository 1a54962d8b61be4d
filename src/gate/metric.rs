//! Numbers of a Prometheus server: an instant query, again and again, whose one value must stay within bounds.
//!
//! A number out of bounds, so often in a row, is a no. No number, several of them, or a server that can't be asked is
//! neither yes nor no.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Standing;
use super::webhook::told;
use crate::config::MetricConfig;
use crate::outbound::{Answer, Call, call};

/// An answer with one number is far below.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Asks for as long as somebody listens. The first time after one interval: before that the numbers are of earlier.
pub async fn watch(metric: Arc<MetricConfig>, query: String, tell: watch::Sender<Standing>) {
    let mut pause = interval(metric.interval);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pause.tick().await;
    let mut failed = 0;
    while !tell.is_closed() {
        pause.tick().await;
        match value(&metric, &query).await {
            Err(reason) => drop(tell.send_replace(Standing::Silent(reason))),
            Ok(value) => match out_of_bounds(&metric, value) {
                None => {
                    failed = 0;
                    tell.send_replace(Standing::Passed(format!("it is {value}")));
                }
                Some(reason) => {
                    failed += 1;
                    tell.send_replace(if failed >= metric.failures {
                        Standing::Refused(reason)
                    } else {
                        Standing::Pending(format!("{reason}, {failed} of {} times", metric.failures))
                    });
                }
            },
        }
    }
}

fn out_of_bounds(metric: &MetricConfig, value: f64) -> Option<String> {
    match (metric.min, metric.max) {
        (Some(min), _) if value < min => Some(format!("it is {value}, below {min}")),
        (_, Some(max)) if value > max => Some(format!("it is {value}, above {max}")),
        _ => None,
    }
}

/// The query's one value, or why there is none.
async fn value(metric: &MetricConfig, query: &str) -> Result<f64, String> {
    let base = metric.to.path.path().trim_end_matches('/');
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
    let path = format!("{base}/api/v1/query?{query}").parse::<PathAndQuery>().map_err(|error| error.to_string())?;
    let asked = Call {
        method: Method::GET,
        path: Some(path),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        id: None,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    read(&call(&metric.to, asked).await.map_err(|error| error.to_string())?)
}

/// An answer of Prometheus' HTTP API.
#[derive(Deserialize)]
struct Told {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Sample {
    value: (f64, String),
}

fn read(answer: &Answer) -> Result<f64, String> {
    let status = answer.status;
    if !answer.is_whole {
        return Err(format!("its answer is longer than {} KiB; aggregate, as in sum(…)", ANSWER_BYTES_MAX / 1024));
    }
    let Ok(said) = serde_json::from_slice::<Told>(&answer.body) else {
        return Err(format!("it answered {status}, and no Prometheus would say: {:?}", told(&answer.body)));
    };
    if said.status != "success" {
        return Err(format!("it answered {status}: {}", told(said.error.as_bytes())));
    }
    let Some(data) = said.data else { return Err("its answer has no data".to_owned()) };
    let odd = |error: serde_json::Error| format!("its result is no {}: {error}", data.kind);
    let (_, text): (f64, String) = match data.kind.as_str() {
        "scalar" => serde_json::from_value(data.result).map_err(odd)?,
        "vector" => {
            let samples: Vec<Sample> = serde_json::from_value(data.result).map_err(odd)?;
            let count = samples.len();
            match <[Sample; 1]>::try_from(samples) {
                Ok([sample]) => sample.value,
                Err(_) if count == 0 => return Err("the query has no result".to_owned()),
                Err(_) => {
                    return Err(format!("the query has {count} results, and one is needed: aggregate, as in sum(…)"));
                }
            }
        }
        other => {
            return Err(format!("the query is for a {}, and one number is needed", told(other.as_bytes())));
        }
    };
    match text.parse::<f64>() {
        Ok(value) if !value.is_nan() => Ok(value),
        _ => Err(format!("the query's result is no number: {}", told(text.as_bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn heard(body: &'static str) -> Result<f64, String> {
        let (status, headers, body) = (StatusCode::OK, HeaderMap::new(), Bytes::from_static(body.as_bytes()));
        read(&Answer { status, headers, body, is_whole: true })
    }

    #[test]
    fn one_number_is_an_answer() {
        let vector =
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1.5,"0.25"]}]}}"#;
        assert_eq!(heard(vector), Ok(0.25));
        assert_eq!(
            heard(r#"{"status":"success","data":{"resultType":"scalar","result":[1.5,"+Inf"]}}"#),
            Ok(f64::INFINITY)
        );
    }

    #[test]
    fn nothing_else_is() {
        let cases = [
            (r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#, "no result"),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"1"]},{"value":[1,"2"]}]}}"#,
                "2 results",
            ),
            (r#"{"status":"success","data":{"resultType":"scalar","result":[1.5,"NaN"]}}"#, "no number: NaN"),
            (r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#, "for a matrix"),
            (r#"{"status":"success"}"#, "has no data"),
            (r#"{"status":"error","errorType":"bad_data","error":"parse error: unclosed"}"#, "parse error: unclosed"),
            ("<html>no such page</html>", "no Prometheus would say"),
            ("", "no Prometheus would say"),
            (
                r#"{"status":"success","data":{"resultType":"vector","result":[{"value":["x","y"]}]}}"#,
                "result is no vector",
            ),
        ];
        for (body, wanted) in cases {
            let error = heard(body).unwrap_err();
            assert!(error.contains(wanted), "{body}: {error}");
        }
    }
}

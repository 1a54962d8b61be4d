//! A few requests whose answers differ: for people to look at, bounded and redacted.

use std::time::SystemTime;

use super::fields::{Differences, Field, Values};
use super::judge::Judge;
use super::pair::Pair;
use super::redact::Redaction;

/// One request, and one field in which its answers differ.
#[derive(Debug, Clone)]
pub struct Example {
    pub at: SystemTime,
    pub request_id: String,
    pub method: String,
    pub path: String,
    pub route: Option<String>,
    pub field: Field,
    pub values: Values,
}

/// As many as are kept, each of another field. Those that were found real displace others.
#[derive(Debug, Clone)]
pub struct Examples {
    kept: Vec<Example>,
    max: usize,
}

impl Examples {
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { kept: Vec::new(), max }
    }

    /// Offers what differs for the shadow alone.
    pub fn offer(
        &mut self,
        pair: &Pair,
        shadow: &Differences,
        noise: Option<&Differences>,
        judge: &Judge,
        redaction: &Redaction,
    ) {
        for (field, values) in shadow.iter().filter(|(field, _)| noise.is_none_or(|noise| !noise.contain(field))) {
            if let Some(place) = self.place_for(field, judge) {
                let example = Example {
                    at: SystemTime::now(),
                    request_id: redaction.path(&pair.request_id),
                    method: pair.method.to_string(),
                    path: redaction.path(&pair.path),
                    route: pair.route.as_deref().map(str::to_owned),
                    field: field.clone(),
                    values: values.clone(),
                };
                self.kept.truncate(self.max);
                match self.kept.get_mut(place) {
                    Some(displaced) => *displaced = example,
                    None => self.kept.push(example),
                }
            }
        }
    }

    /// Where an example of a field goes; `None`: there is one, or no room.
    fn place_for(&self, field: &Field, judge: &Judge) -> Option<usize> {
        let is_found = |field: &Field| judge.row(field).is_some_and(|row| row.found);
        if self.kept.iter().any(|example| example.field == *field) {
            return None;
        }
        if self.kept.len() < self.max {
            return Some(self.kept.len());
        }
        if is_found(field) { self.kept.iter().position(|example| !is_found(&example.field)) } else { None }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Example> {
        self.kept.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::Change;
    use super::super::judge::{Level, Sight};
    use super::super::testing::{answer, pair};
    use super::*;

    fn differences(places: &[&str]) -> Differences {
        places.iter().map(|place| Field::new(place, Change::Value)).collect()
    }

    fn places(examples: &Examples) -> Vec<&str> {
        examples.iter().map(|example| &*example.field.place).collect()
    }

    #[test]
    fn each_is_of_another_field_and_real_ones_displace_others() {
        let mut judge = Judge::new(Level { alpha: 0.01, tolerated: 0.01, noise: true });
        let mut examples = Examples::new(2);
        let (pair, redaction) = (pair(answer(""), answer(""), None), Redaction::default());
        for shadow in [differences(&["$.a"]), differences(&["$.a", "$.b", "$.c"])] {
            examples.offer(&pair, &shadow, Some(&differences(&["$.x"])), &judge, &redaction);
        }
        assert_eq!(places(&examples), ["$.a", "$.b"]);
        for _ in 0..20 {
            let sight =
                Sight { shadow: Some(differences(&["$.c"])), noise: Some(differences(&[])), ..Sight::default() };
            judge.observe(&sight);
        }
        examples.offer(&pair, &differences(&["$.c"]), Some(&differences(&[])), &judge, &redaction);
        assert_eq!(places(&examples), ["$.c", "$.b"]);
        assert_eq!(examples.iter().next().unwrap().path, "/cart?token=(redacted)");
        let noisy = differences(&["$.d"]);
        examples.offer(&pair, &noisy, Some(&noisy), &judge, &redaction);
        assert_eq!(places(&examples), ["$.c", "$.b"]);
    }

    #[test]
    fn where_none_are_wanted_none_are_kept() {
        let judge = Judge::new(Level { alpha: 0.01, tolerated: 0.01, noise: false });
        let mut examples = Examples::new(0);
        let pair = pair(answer(""), answer(""), None);
        examples.offer(&pair, &differences(&["$.a"]), None, &judge, &Redaction::default());
        assert_eq!(examples.iter().count(), 0);
    }
}

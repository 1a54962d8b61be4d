//! Prometheus' text format 0.0.4, read as strictly as it is written down: every family has one HELP and one TYPE
//! before its samples, its samples stand together, no series comes twice, and histograms add up.

use std::collections::{BTreeMap, BTreeSet};

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Exposition {
    pub families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    /// Its value, which must be a whole number.
    pub fn count(&self) -> u64 {
        assert!(self.value >= 0.0 && self.value.fract().abs() < f64::EPSILON, "{self:?}");
        self.value as u64
    }

    fn without(&self, label: &str) -> BTreeMap<String, String> {
        self.labels.iter().filter(|(name, _)| *name != label).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

impl Exposition {
    /// Reads a page; whatever is wrong with it is a panic.
    pub fn parse(page: &str) -> Self {
        assert!(page.ends_with('\n'), "the last line has no end");
        let mut read = Self::default();
        let mut helped = BTreeSet::new();
        let mut current = String::new();
        for line in page.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no text: {line}"));
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "HELP twice or empty: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(kind != "counter" || name.ends_with("_total"), "a counter's name ends in _total: {line}");
                assert!(helped.contains(name), "HELP comes first: {line}");
                let family = Family { kind: kind.to_owned(), samples: Vec::new() };
                assert!(read.families.insert(name.to_owned(), family).is_none(), "TYPE twice: {line}");
                name.clone_into(&mut current);
            } else {
                let family = read.families.get_mut(&current).unwrap_or_else(|| panic!("no family: {line}"));
                let sample = sample(line);
                let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                let belongs = suffixes.iter().any(|suffix| sample.name == format!("{current}{suffix}"));
                assert!(belongs, "not of the family {current}: {line}");
                family.samples.push(sample);
            }
        }
        read.check();
        read
    }

    /// The sum of the samples that have all of `labels`; there must be one, and all are whole numbers.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let samples = self.samples(name, labels);
        assert!(!samples.is_empty(), "no sample of {name} has {labels:?}");
        samples.iter().map(|sample| sample.count()).sum()
    }

    pub fn samples(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let has = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(l, v)| sample.labels.get(*l).is_some_and(|found| found == v))
        };
        self.families.values().flat_map(|family| &family.samples).filter(has).collect()
    }

    fn check(&self) {
        let mut series = BTreeSet::new();
        for (name, family) in &self.families {
            for sample in &family.samples {
                assert!(series.insert((sample.name.clone(), sample.labels.clone())), "twice: {sample:?}");
                assert!(family.kind != "counter" || sample.value >= 0.0, "{sample:?}");
            }
            if family.kind == "histogram" {
                check_histogram(name, family);
            }
        }
    }
}

fn check_histogram(name: &str, family: &Family) {
    let counts = family.samples.iter().filter(|sample| sample.name == format!("{name}_count"));
    for count in counts {
        let of_series = |suffix: &str| {
            let wanted = format!("{name}{suffix}");
            family.samples.iter().filter(move |s| s.name == wanted && s.without("le") == count.labels)
        };
        assert_eq!(of_series("_sum").count(), 1, "{count:?}");
        let bounds = of_series("_bucket").map(|bucket| (number(&bucket.labels["le"]), bucket.value));
        let bounds: Vec<_> = bounds.collect();
        assert!(bounds.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{bounds:?}");
        assert_eq!(bounds.last(), Some(&(f64::INFINITY, count.value)), "{count:?}");
    }
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let name = &line[..end];
    assert_name(name);
    let mut labels = BTreeMap::new();
    let mut rest = &line[end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert_name(label);
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "a label twice: {line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space before the value: {line}"));
    Sample { name: name.to_owned(), labels, value: number(value) }
}

/// A label's value up to its closing quote, and what follows that.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                other => panic!("no such escape: {other:?} in {text}"),
            },
            other => value.push(other),
        }
    }
    panic!("a label's value has no end: {text}");
}

fn assert_name(name: &str) {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    assert!(first && characters.all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name:?} is no name");
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("{text:?} is no number")),
    }
}

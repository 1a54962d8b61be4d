//! What a service changes in the headers of its requests or responses.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Changes to a head, made in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderChanges {
    pub remove: Vec<HeaderName>,
    /// In place of all values that were there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Besides those that were there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// The same with names and values of its own: a clone would share them, and their reference counts, with every
    /// other thread.
    #[must_use]
    pub fn unshared(&self) -> Self {
        let all = |pairs: &[(HeaderName, HeaderValue)]| {
            pairs.iter().map(|(name, value)| (unshared_name(name), unshared_value(value))).collect()
        };
        Self { remove: self.remove.iter().map(unshared_name).collect(), set: all(&self.set), add: all(&self.add) }
    }
}

fn unshared_name(name: &HeaderName) -> HeaderName {
    HeaderName::from_bytes(name.as_str().as_bytes()).expect("a name is a name")
}

fn unshared_value(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).expect("a value is a value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_stands_alone_and_what_is_added_stands_beside() {
        let pair = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let changes = HeaderChanges {
            remove: vec![HeaderName::from_static("gone"), HeaderName::from_static("x-new")],
            set: vec![pair("x-set", "ours"), pair("x-new", "1")],
            add: vec![pair("x-added", "ours")],
        };
        let before = [("x-set", "a"), ("x-set", "b"), ("gone", "1"), ("x-added", "theirs"), ("kept", "1")];
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, value) in before {
            headers.append(name, HeaderValue::from_static(value));
        }
        changes.unshared().apply(&mut headers);
        let values = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(values("x-set"), ["ours"]);
        assert_eq!(values("x-added"), ["theirs", "ours"]);
        assert_eq!((values("x-new"), values("kept"), values("gone").len()), (vec!["1"], vec!["1"], 0));
    }
}

//! What the schema says about one value. Only the part of JSON Schema that is made from the file's shapes is known
//! here: type, properties, required, additionalProperties, items, minItems, enum, anyOf, `$ref`, and minimum and maximum
//! of whole numbers (about fractions, the checked types say it better).

use serde_json::{Map, Value};

use super::schema;

/// One node of the schema. Where several types are allowed, each is of a different TOML type, so a value picks its
/// own branch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    node: &'static Value,
    /// What the list around it says about its items; for those that say nothing themselves.
    list: &'static str,
}

impl Shape {
    /// The whole file's.
    pub(super) fn root() -> Self {
        Self::of(schema::shared())
    }

    fn of(node: &'static Value) -> Self {
        Self { node, list: "" }
    }

    /// The shape for a value of the JSON type `kind`, if such a value is allowed.
    pub(super) fn accepting(self, kind: &str) -> Option<Self> {
        self.branches().into_iter().find(|branch| {
            let wanted = branch.node.get("type").and_then(Value::as_str);
            wanted == Some(kind) || (wanted == Some("number") && kind == "integer")
        })
    }

    /// The first sentence of what the schema says about the value.
    pub(super) fn description(self) -> &'static str {
        let text = self.node.get("description").or_else(|| self.resolved().get("description"));
        let text = text.and_then(Value::as_str).unwrap_or(self.list);
        text.split("\n\n").next().unwrap_or_default()
    }

    /// What kinds of values are allowed, in words.
    pub(super) fn wanted(self) -> String {
        let kinds: Vec<&str> = self.branches().iter().map(|branch| branch.kind_in_words()).collect();
        kinds.join(" or ")
    }

    /// The words that are allowed for a text; empty: any.
    pub(super) fn choices(self) -> Vec<&'static str> {
        self.resolved().get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Smallest and largest whole number allowed.
    pub(super) fn range(self) -> (i64, i64) {
        let bound = |key| self.resolved().get(key).and_then(Value::as_i64);
        (bound("minimum").unwrap_or(i64::MIN), bound("maximum").unwrap_or(i64::MAX))
    }

    pub(super) fn items(self) -> Option<Self> {
        self.resolved().get("items").map(|node| Self { node, list: self.description() })
    }

    pub(super) fn items_min(self) -> u64 {
        self.resolved().get("minItems").and_then(Value::as_u64).unwrap_or(0)
    }

    /// The shape of the value at `key` of a table, whether the key is known or freely chosen.
    pub(super) fn entry(self, key: &str) -> Option<Self> {
        let known = self.properties().and_then(|properties| properties.get(key));
        let free = self.resolved().get("additionalProperties").filter(|free| free.is_object());
        known.or(free).map(Self::of)
    }

    /// The keys that the table knows.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static str> {
        self.properties().into_iter().flat_map(|properties| properties.keys().map(String::as_str))
    }

    /// The keys that the table must have.
    pub(super) fn required(self) -> impl Iterator<Item = &'static str> {
        self.resolved().get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// A value of this shape that means nothing, to take the seat of a broken one.
    pub(super) fn placeholder(self) -> Value {
        let Some(branch) = self.branches().into_iter().next() else { return Value::Null };
        match branch.node.get("type").and_then(Value::as_str) {
            Some("object") => {
                let entry = |key: &str| Some((key.to_owned(), branch.entry(key)?.placeholder()));
                branch.required().filter_map(entry).collect::<Map<_, _>>().into()
            }
            Some("array") => Value::Array(Vec::new()),
            Some("integer") => branch.range().0.max(0).into(),
            Some("number") => 0.into(),
            Some("boolean") => false.into(),
            _ => branch.choices().first().copied().unwrap_or_default().into(),
        }
    }

    fn properties(self) -> Option<&'static Map<String, Value>> {
        self.resolved().get("properties").and_then(Value::as_object)
    }

    /// This shape, or those that it allows to choose from.
    fn branches(self) -> Vec<Self> {
        let node = self.resolved();
        match node.get("anyOf").and_then(Value::as_array) {
            Some(branches) => branches.iter().flat_map(|node| Self::of(node).branches()).collect(),
            None => vec![Self { node, list: self.list }],
        }
    }

    fn resolved(self) -> &'static Value {
        let reference = self.node.get("$ref").and_then(Value::as_str);
        reference.and_then(|path| schema::shared().pointer(path.trim_start_matches('#'))).unwrap_or(self.node)
    }

    fn kind_in_words(self) -> &'static str {
        match self.node.get("type").and_then(Value::as_str) {
            Some("object") => "a table",
            Some("array") => "a list",
            Some("integer") => "a whole number",
            Some("number") => "a number",
            Some("boolean") => "true or false",
            _ => "a text",
        }
    }
}

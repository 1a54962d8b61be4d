//! The JSON Schema of proxy.toml: completion in editors, and the rules that the reader checks the file against.

use std::sync::LazyLock;

use serde_json::Value;

use super::file::File;

/// The JSON Schema (draft 2020-12) of proxy.toml.
#[must_use]
pub fn schema() -> Value {
    shared().clone()
}

/// The same, made once.
pub(super) fn shared() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let mut schema = schemars::schema_for!(File).to_value();
        without_null(&mut schema);
        schema["title"] = "proxy.toml".into();
        schema
    });
    &SCHEMA
}

/// TOML has no null: a key that may be missing is not `required`, and that is all there is to say.
fn without_null(node: &mut Value) {
    if let Some(types) = node.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            node["type"] = only.clone();
        }
    }
    if let Some(branches) = node.get_mut("anyOf").and_then(Value::as_array_mut) {
        branches.retain(|branch| branch.get("type").is_none_or(|kind| kind != "null"));
        if let [only] = branches.as_slice() {
            let only = only.clone();
            unwrap_only_branch(node, only);
        }
    }
    if let Some(object) = node.as_object_mut() {
        object.retain(|key, value| key != "default" || !value.is_null());
    }
    match node {
        Value::Object(object) => object.values_mut().for_each(without_null),
        Value::Array(array) => array.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// Puts the one branch that is left in place of `anyOf`; what the key says about itself goes before.
fn unwrap_only_branch(node: &mut Value, only: Value) {
    if let (Some(object), Value::Object(only)) = (node.as_object_mut(), only) {
        object.shift_remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_schema_is_described_and_none_may_be_null() {
        let schema = schema();
        let text = schema.to_string();
        assert!(!text.contains("\"null\""), "{text}");
        described(&schema);
    }

    fn described(node: &Value) {
        if let Some(properties) = node.get("properties").and_then(Value::as_object) {
            for (key, property) in properties {
                assert!(property["description"].is_string(), "{key} has no description: {property}");
            }
        }
        match node {
            Value::Object(object) => object.values().for_each(described),
            Value::Array(array) => array.iter().for_each(described),
            _ => {}
        }
    }

    #[test]
    fn the_defaults_of_durations_are_in_the_schema() {
        assert_eq!(schema()["$defs"]["TimeoutsFile"]["properties"]["keep_alive"]["default"], "5m");
        assert_eq!(schema()["properties"]["state_dir"]["default"], "state");
    }
}

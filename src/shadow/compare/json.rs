//! Two documents, member by member. Elements of arrays are compared by their positions; where one has more, that alone
//! is told, since which of them are the same can't be.

use super::Rules;
use crate::model::{PlaceStep, write_json_path};
use crate::shadow::document::{Node, is_same_number};
use crate::shadow::fields::{Change, Differences, Field, Values};

/// Differences that are looked at, of all places and positions.
const SEEN_MAX: usize = 4_096;

pub(super) fn compare(primary: &Node<'_>, shadow: &Node<'_>, rules: &Rules, found: &mut Differences) {
    let mut walk = Walk { rules, found, place: Vec::new(), seen: 0 };
    walk.compare(primary, shadow);
    if walk.seen > SEEN_MAX {
        found.add(Field::others(), Values::default);
    }
}

struct Walk<'a, 'f> {
    rules: &'f Rules,
    found: &'f mut Differences,
    place: Vec<PlaceStep<'a>>,
    seen: usize,
}

impl<'a> Walk<'a, '_> {
    fn compare(&mut self, primary: &'a Node<'_>, shadow: &'a Node<'_>) {
        match (primary, shadow) {
            _ if self.seen > SEEN_MAX => {}
            (Node::Object(ours), Node::Object(theirs)) => self.compare_members(ours, theirs),
            (Node::Array(ours), Node::Array(theirs)) if ours.len() == theirs.len() => {
                self.place.push(PlaceStep::Element);
                ours.iter().zip(theirs).for_each(|(ours, theirs)| self.compare(ours, theirs));
                self.place.pop();
            }
            (Node::Array(ours), Node::Array(theirs)) => {
                let told = |elements: &[Node<'_>]| format!("{} elements", elements.len());
                self.differ(Change::Length, |_, _| Values { primary: told(ours), shadow: told(theirs) });
            }
            (Node::Number(ours), Node::Number(theirs)) if is_same_number(ours, theirs) => {}
            _ if primary == shadow => {}
            _ => {
                let is_same_type = std::mem::discriminant(primary) == std::mem::discriminant(shadow);
                let change = if is_same_type { Change::Value } else { Change::Type };
                self.differ_by(change, Some(primary), Some(shadow));
            }
        }
    }

    /// Both are in order of their keys.
    fn compare_members<K: AsRef<str>>(&mut self, ours: &'a [(K, Node<'_>)], theirs: &'a [(K, Node<'_>)]) {
        let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => return,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((our, _)), Some((their, _))) => our.as_ref().cmp(their.as_ref()),
            };
            let our = if order.is_le() { ours.next() } else { None };
            let their = if order.is_ge() { theirs.next() } else { None };
            let Some((key, _)) = our.or(their) else { return };
            self.place.push(PlaceStep::to(key.as_ref()));
            match (our, their) {
                (Some((_, our)), Some((_, their))) => self.compare(our, their),
                (Some((_, our)), None) => self.differ_by(Change::Missing, Some(our), None),
                (None, their) => self.differ_by(Change::Added, None, their.map(|(_, their)| their)),
            }
            self.place.pop();
        }
    }

    fn differ_by(&mut self, change: Change, primary: Option<&Node<'_>>, shadow: Option<&Node<'_>>) {
        self.differ(change, |rules, place| {
            let told = |node: Option<&Node<'_>>| node.map_or(String::new(), |node| rules.redaction.value(place, node));
            Values { primary: told(primary), shadow: told(shadow) }
        });
    }

    fn differ(&mut self, change: Change, values: impl FnOnce(&Rules, &[PlaceStep<'_>]) -> Values) {
        if self.rules.ignore.iter().any(|ignored| ignored.covers(&self.place)) {
            return;
        }
        self.seen += 1;
        if self.seen <= SEEN_MAX {
            let field = Field::new(&write_json_path(&self.place), change);
            self.found.add(field, || values(self.rules, &self.place));
        }
    }
}

//! The kinds of events that the history has, as files and people name them.

/// Every kind, in no order that means anything.
pub const EVENT_KINDS: [&str; 41] = [
    "started",
    "stopped",
    "reloaded",
    "reload_refused",
    "weights_changed",
    "weights_reset",
    "override_ended",
    "endpoint_down",
    "endpoint_up",
    "drained",
    "endpoint_drained",
    "endpoint_undrained",
    "suspended",
    "resumed",
    "would_drain",
    "undrained",
    "probation_began",
    "stable_alarm",
    "stable_alarm_ended",
    "rollout_began",
    "freeze_overridden",
    "rollout_advanced",
    "rollout_paused",
    "rollout_resumed",
    "rollout_approved",
    "rollout_ending",
    "rollout_ended",
    "deployment_ended",
    "guard_changed",
    "shadow_verdict",
    "shadow_reset",
    "mirror_changed",
    "mirror_ended",
    "roll_began",
    "roll_took_out",
    "roll_put_back",
    "roll_ended",
    "swapped",
    "held",
    "released",
    "notify_skipped",
];

/// Kinds that a person may want to hear of while they aren't looking.
pub const TELLING_KINDS: [&str; 18] = [
    "reload_refused",
    "weights_changed",
    "weights_reset",
    "drained",
    "would_drain",
    "undrained",
    "stable_alarm",
    "stable_alarm_ended",
    "rollout_began",
    "freeze_overridden",
    "rollout_paused",
    "rollout_resumed",
    "rollout_approved",
    "rollout_ended",
    "roll_began",
    "roll_ended",
    "swapped",
    "notify_skipped",
];

/// A kind, or all kinds that begin alike: `"rollout_*"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPattern(String);

impl EventPattern {
    /// `None` when no kind is meant by it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let pattern = Self(text.to_owned());
        EVENT_KINDS.iter().any(|kind| pattern.takes(kind)).then_some(pattern)
    }

    #[must_use]
    pub fn takes(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => kind == self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_kind_or_the_beginning_of_some() {
        assert!(EventPattern::parse("rollout_*").unwrap().takes("rollout_ended"));
        assert!(!EventPattern::parse("rollout_*").unwrap().takes("roll_ended"));
        assert!(EventPattern::parse("*").unwrap().takes("started"));
        assert!(EventPattern::parse("drained").unwrap().takes("drained"));
        assert_eq!(EventPattern::parse("rollout"), None);
        assert_eq!(EventPattern::parse("canary*"), None);
        assert!(TELLING_KINDS.iter().all(|kind| EVENT_KINDS.contains(kind)));
    }
}

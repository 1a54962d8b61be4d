//! How things that are counted by cause are written down.

/// Names the causes of something counted by cause: each has a counter in every [`super::WorkerCell`] and a label.
macro_rules! causes {
    ($(#[$meta:meta])* $name:ident { $($(#[$cause_meta:meta])* $cause:ident = $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$cause_meta])* $cause,)+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$cause),+];
            pub(super) const COUNT: usize = Self::ALL.len();

            /// Stable, for logs and metrics.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$cause => $label,)+ }
            }
        }
    };
}

pub(super) use causes;

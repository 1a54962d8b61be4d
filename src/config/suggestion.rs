//! "Did you mean …?": the known word closest to what was written.

/// Longer words are not typing errors of known ones, and comparing costs the product of the lengths.
const WORD_BYTES_MAX: usize = 64;

/// The candidate that `word` is most likely a misspelling of.
pub(super) fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    let near_enough = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= WORD_BYTES_MAX)
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase().replace('-', "_")), candidate))
        .filter(|(distance, _)| *distance <= near_enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, dropped, changed or swapped with their neighbour to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            rows[i][j] = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                rows[i][j] = rows[i][j].min(rows[i - 2][j - 2] + 1);
            }
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word() {
        let words = ["weight", "endpoints", "protocol", "tls", "pool", "idle_timeout"];
        for (slip, word) in [
            ("wieght", "weight"),
            ("Weight", "weight"),
            ("endpoint", "endpoints"),
            ("protocl", "protocol"),
            ("tsl", "tls"),
            ("idle-timeout", "idle_timeout"),
        ] {
            assert_eq!(closest(slip, words), Some(word));
        }
        assert_eq!(closest("revision", words), None);
        assert_eq!(closest("", words), None);
        assert_eq!(closest(&"w".repeat(100), words), None);
    }
}

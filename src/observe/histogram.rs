//! Durations in logarithmic buckets, four to each doubling (a value is known to within 19 %), from 64 µs to 67 s.
//!
//! One worker writes, readers add workers up. Recording is one index computation and two additions.

use std::time::Duration;

use super::Counter;

/// Buckets per doubling.
const PER_OCTAVE: usize = 4;
/// Everything below 2^6 µs shares the first bucket.
const FIRST_OCTAVE: usize = 6;
/// Everything from 2^26 µs (67 s) up shares the last bucket.
const LAST_OCTAVE: usize = 26;
/// Number of buckets, with one below and one above.
const BUCKETS: usize = (LAST_OCTAVE - FIRST_OCTAVE) * PER_OCTAVE + 2;

/// One worker's durations.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum_us: Counter::default() }
    }
}

impl Histogram {
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].add(1);
        self.sum_us.add(micros);
    }
}

/// The bucket of a duration in microseconds.
fn bucket(micros: u64) -> usize {
    if micros < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = micros.ilog2() as usize;
    if octave >= LAST_OCTAVE {
        return BUCKETS - 1;
    }
    let quarter = (micros >> (octave - 2)) as usize & (PER_OCTAVE - 1);
    1 + (octave - FIRST_OCTAVE) * PER_OCTAVE + quarter
}

/// The first duration, in microseconds, that lies above bucket `index`; `None` for the last.
fn upper_us(index: usize) -> Option<u64> {
    match index {
        0 => Some(1 << FIRST_OCTAVE),
        _ if index >= BUCKETS - 1 => None,
        _ => {
            let (octave, quarter) = ((index - 1) / PER_OCTAVE + FIRST_OCTAVE, (index - 1) % PER_OCTAVE);
            Some((PER_OCTAVE as u64 + quarter as u64 + 1) << (octave - 2))
        }
    }
}

/// The sum of several workers' histograms at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramTotals {
    buckets: [u64; BUCKETS],
    sum_us: u64,
}

impl Default for HistogramTotals {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_us: 0 }
    }
}

impl HistogramTotals {
    pub fn add(&mut self, histogram: &Histogram) {
        for (total, counter) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total += counter.value();
        }
        self.sum_us += histogram.sum_us.value();
    }

    /// What was recorded since `earlier`, an older reading of the same histograms.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            buckets: std::array::from_fn(|i| self.buckets[i].saturating_sub(earlier.buckets[i])),
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
        }
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }

    /// The duration below which a share `q` (0 to 1) of the recorded ones lie, interpolated inside its bucket.
    /// `None` when nothing was recorded.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (q * count as f64).max(1.0);
        let (mut below, mut lower_us) = (0u64, 0u64);
        for (index, in_bucket) in self.buckets.iter().enumerate() {
            let Some(upper_us) = upper_us(index) else { break };
            if (below + in_bucket) as f64 >= rank {
                let part = (rank - below as f64) / *in_bucket as f64;
                let micros = lower_us as f64 + (upper_us - lower_us) as f64 * part;
                return Some(Duration::from_micros(micros as u64));
            }
            below += in_bucket;
            lower_us = upper_us;
        }
        Some(Duration::from_micros(lower_us))
    }

    /// Cumulative counts for Prometheus, two buckets to each doubling: `(upper bound in seconds, count at or
    /// below)`. The bounds are the same for every histogram, so that they can be added up.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let mut below = 0;
        (0..BUCKETS - 1).filter_map(move |index| {
            below += self.buckets[index];
            let upper_us = upper_us(index)?;
            (index % 2 == 0).then_some((upper_us as f64 / 1e6, below))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_its_buckets_bound_and_not_below_the_one_before() {
        for micros in (0..100_000).chain((17..40).map(|p| (1u64 << p) - 1)).chain((17..40).map(|p| 1 << p)) {
            let index = bucket(micros);
            assert!(upper_us(index).is_none_or(|upper| micros < upper), "{micros} in {index}");
            assert!(index == 0 || upper_us(index - 1).is_some_and(|lower| micros >= lower), "{micros} in {index}");
        }
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        let mut totals = HistogramTotals::default();
        totals.add(&histogram);
        assert_eq!(totals.count(), 1000);
        assert_eq!(totals.sum(), Duration::from_millis(500_500));
        for (q, ms) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0)] {
            let found = totals.quantile(q).unwrap().as_secs_f64() * 1000.0;
            assert!((found / ms - 1.0).abs() < 0.1, "p{q} is {found} ms");
        }
        assert_eq!(HistogramTotals::default().quantile(0.5), None);
    }

    #[test]
    fn a_reading_since_another_holds_only_what_came_between() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(1));
        let mut before = HistogramTotals::default();
        before.add(&histogram);
        histogram.record(Duration::from_millis(100));
        let mut after = HistogramTotals::default();
        after.add(&histogram);
        let between = after.since(&before);
        assert_eq!(between.count(), 1);
        assert!(between.quantile(0.5).unwrap() > Duration::from_millis(80));
    }

    #[test]
    fn cumulative_counts_grow_and_end_with_all_but_the_overflow() {
        let histogram = Histogram::default();
        for micros in [10, 70, 1_000, 50_000, 100_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let mut totals = HistogramTotals::default();
        totals.add(&histogram);
        let points: Vec<_> = totals.cumulative().collect();
        assert!(points.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
        assert_eq!(points.last().unwrap().1, 4);
        assert_eq!(points[0], (64e-6, 1));
    }
}

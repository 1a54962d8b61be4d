//! Logarithms of the gamma and beta functions.

/// `ln B(a, b)` for positive `a` and `b`.
pub(super) fn ln_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ln B` of a vector: what a Dirichlet prior needs.
    fn ln_beta_of(v: &[f64]) -> f64 {
        v.iter().map(|a| libm::lgamma(*a)).sum::<f64>() - libm::lgamma(v.iter().sum())
    }

    #[test]
    fn a_published_multinomial_test_comes_out_the_same() {
        // Lindon's reference implementation, a Dirichlet prior of concentration 100.
        let vectors: [(&[f64], &[f64], f64); 3] = [
            (&[156.0, 212.0], &[0.5, 0.5], 0.074865),
            (&[40.0, 129.0, 233.0], &[0.1, 0.4, 0.5], 0.048456),
            (&[148.0, 62.0], &[0.8, 0.2], 0.045580),
        ];
        for (counts, shares, p_value) in vectors {
            let prior: Vec<f64> = shares.iter().map(|share| 100.0 * share).collect();
            let posterior: Vec<f64> = prior.iter().zip(counts).map(|(a, s)| a + s).collect();
            let fixed: f64 = counts.iter().zip(shares).map(|(s, share)| s * share.ln()).sum();
            let p = (-(ln_beta_of(&posterior) - ln_beta_of(&prior) - fixed)).exp();
            assert!((p - p_value).abs() < 5e-7, "{p} instead of {p_value}");
        }
    }

    #[test]
    fn beta_of_small_numbers_is_what_school_says() {
        assert!((ln_beta(1.0, 1.0)).abs() < 1e-12);
        assert!((ln_beta(2.0, 3.0) - (1.0_f64 / 12.0).ln()).abs() < 1e-12);
    }
}

//! What the suites judge samples by.

/// Kolmogorov–Smirnov: the largest distance between the distribution of `samples` and that of Exp(1), after division by
/// `mean`.
#[must_use]
pub fn distance_from_exponential(samples: &[f64], mean: f64) -> f64 {
    let mut samples: Vec<f64> = samples.iter().map(|sample| sample / mean).collect();
    samples.sort_by(f64::total_cmp);
    let n = samples.len() as f64;
    samples.iter().enumerate().fold(0.0, |worst: f64, (i, x)| {
        let expected = 1.0 - (-x.max(0.0)).exp();
        worst.max((expected - i as f64 / n).abs()).max(((i + 1) as f64 / n - expected).abs())
    })
}

/// Probability of a Kolmogorov–Smirnov distance this large or larger among `n` samples, by the asymptotic distribution
/// (Stephens 1970).
#[must_use]
pub fn kolmogorov_p(distance: f64, n: usize) -> f64 {
    let root = (n as f64).sqrt();
    let lambda = (root + 0.12 + 0.11 / root) * distance;
    if lambda < 0.2 {
        // the series does not converge there, and the value is 1 to twelve digits
        return 1.0;
    }
    let sum: f64 = (1..=100i32)
        .map(|k| {
            let term = (-2.0 * f64::from(k).powi(2) * lambda.powi(2)).exp();
            if k % 2 == 1 { term } else { -term }
        })
        .sum();
    (2.0 * sum).clamp(0.0, 1.0)
}

/// The value below which `share` of the samples lie. Sorts them.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().checked_sub(1).expect("samples");
    samples[((samples.len() as f64 * share) as usize).min(last)]
}

/// Chi-square as a standard normal value (Wilson and Hilferty 1931): beyond 4.5 by chance once in 300,000.
#[must_use]
pub fn chi_square_z(chi_square: f64, degrees: f64) -> f64 {
    let spread = 2.0 / (9.0 * degrees);
    ((chi_square / degrees).cbrt() - (1.0 - spread)) / spread.sqrt()
}

/// How far counts are from all being equally likely, as [`chi_square_z`].
#[must_use]
pub fn uniformity_z(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let expected = total as f64 / counts.len() as f64;
    let chi_square = counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
    chi_square_z(chi_square, counts.len() as f64 - 1.0)
}

/// Area under the receiver operating characteristic: the probability that a score of `positive` is above one of
/// `negative`. 0.5 is guessing.
#[must_use]
pub fn auc(positive: &[f32], negative: &[f32]) -> f64 {
    let mut all: Vec<(f32, bool)> =
        positive.iter().map(|score| (*score, true)).chain(negative.iter().map(|score| (*score, false))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut ranks, mut at) = (0.0, 0);
    while at < all.len() {
        // equal scores share their ranks
        let end = at + all[at..].partition_point(|entry| entry.0 <= all[at].0);
        let rank = (at + end + 1) as f64 / 2.0;
        ranks += rank * all[at..end].iter().filter(|entry| entry.1).count() as f64;
        at = end;
    }
    let (n, m) = (positive.len() as f64, negative.len() as f64);
    (ranks - n * (n + 1.0) / 2.0) / (n * m)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // the 1 % point of the Kolmogorov distribution is 1.628
        assert!((kolmogorov_p(1.628 / 1e4, 100_000_000) - 0.01).abs() < 2e-4);
        let exact: Vec<f64> = (0..1_000).map(|i| -(1.0 - (f64::from(i) + 0.5) / 1_000.0).ln()).collect();
        assert!(distance_from_exponential(&exact, 1.0) < 0.000_6);
        assert!(distance_from_exponential(&exact, 1.5) > 0.1);
        // the upper 1 % point of chi-square with 255 degrees is 310.5
        assert!((chi_square_z(310.457, 255.0) - 2.326).abs() < 0.01);
        assert!((auc(&[1.0, 2.0], &[0.0, 1.0]) - 0.875).abs() < 1e-12);
        assert!((quantile(&mut [3.0, 1.0, 2.0], 0.99) - 3.0).abs() < 1e-12);
    }
}

//! The few statistics that the rest of the room needs.

/// The middle value (mean of the two middle ones for an even count); `None` for nothing.  NaN sorts last.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        _ => Some(f64::midpoint(sorted[n / 2 - 1], sorted[n / 2])),
    }
}

/// The mean; `None` for nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

/// A distribution-free 95 % interval of the median: the order statistics `x(k)` and `x(n+1-k)` with the largest `k`
/// for which the binomial(n, 1/2) coverage is still 95 %.  Fewer than six values cannot reach 95 %; then it is their
/// whole range (five values: 93.75 %, four: 87.5 %, one: no information, the value itself).
pub fn median_interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return None;
    }
    // Coverage of [x(k), x(n+1-k)] is 1 - 2 P(X <= k-1), X ~ binomial(n, 1/2); terms in logarithms for large n.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    let mut k = 1;
    while k < n.div_ceil(2) {
        log_term += ((n - k + 1) as f64 / k as f64).ln();
        let next = tail + log_term.exp();
        if 2.0 * next > 0.05 {
            break;
        }
        tail = next;
        k += 1;
    }
    Some((sorted[k - 1], sorted[n - k]))
}

/// Median absolute deviation, scaled to be the standard deviation of normal data.
pub fn spread(values: &[f64]) -> Option<f64> {
    let centre = median(values)?;
    let distances: Vec<f64> = values.iter().map(|v| (v - centre).abs()).collect();
    median(&distances).map(|d| 1.4826 * d)
}

/// Two-sided 95 % quantile of Student's t.
pub fn t95(degrees: f64) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    match degrees {
        d if d.is_nan() || d < 1.0 => TABLE[0],
        d if d < 11.0 => {
            let low = d.floor() as usize;
            let left = TABLE[low - 1];
            let right = TABLE.get(low).copied().unwrap_or(2.201);
            left + (right - left) * (d - d.floor())
        }
        // Cornish-Fisher expansion around the normal quantile, right to 0.002 from 11 degrees up.
        d => {
            let z = 1.959_964_f64;
            z + (z.powi(3) + z) / (4.0 * d) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * d * d)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_interval_of_the_median_follows_the_binomial_table() {
        let values = |n: u32| (1..=n).map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_interval(&values(5)), Some((1.0, 5.0)));
        assert_eq!(median_interval(&values(6)), Some((1.0, 6.0)));
        assert_eq!(median_interval(&values(9)), Some((2.0, 8.0)));
        assert_eq!(median_interval(&values(20)), Some((6.0, 15.0)));
        assert_eq!(median_interval(&values(50)), Some((18.0, 33.0)));
        assert_eq!(median_interval(&[7.0]), Some((7.0, 7.0)));
        let (low, high) = median_interval(&values(3000)).unwrap();
        assert!((1440.0..1460.0).contains(&low) && (1540.0..1560.0).contains(&high), "{low} {high}");
    }

    #[test]
    fn t_comes_down_to_the_normal_quantile() {
        assert_eq!(t95(1.0), 12.706);
        assert_eq!(t95(4.0), 2.776);
        assert!((t95(30.0) - 2.042).abs() < 0.002);
        assert!((t95(1e6) - 1.96).abs() < 0.001);
    }
}

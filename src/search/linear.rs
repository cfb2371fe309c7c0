//! Solving with a symmetric, positive definite matrix.

/// The lower Cholesky factor.
pub(super) fn cholesky(mut a: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    for i in 0..a.len() {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            let rest = a[i][j] - dot;
            a[i][j] = if i == j { rest.max(1e-12).sqrt() } else { rest / a[j][j] };
        }
    }
    a
}

/// Solves with a lower factor.
pub(super) fn solve_lower(l: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let mut x = Vec::with_capacity(b.len());
    for (i, value) in b.iter().enumerate() {
        let dot: f64 = x.iter().enumerate().map(|(k, xk): (usize, &f64)| l[i][k] * xk).sum();
        x.push((value - dot) / l[i][i]);
    }
    x
}

/// Solves with its transpose.
pub(super) fn solve_upper(l: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| l[k][i] * x[k]).sum();
        x[i] = (b[i] - dot) / l[i][i];
    }
    x
}

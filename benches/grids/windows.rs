//! What windows of a sweep say beside what launches of their own say, from the same grid.

use autofit::model::observation::Window;
use autofit::model::{Configuration, Observation, Purpose};
use serde_json::{Value, json};

use crate::grid::Grid;

/// A row for each configuration that was measured both ways; ratios are to the settings of the sweep.
pub fn rows(grid: &Grid) -> Vec<Value> {
    let launches = grid.launches();
    let sweeps = || grid.observations.iter().filter(|o| o.purpose == Purpose::Sweep);
    let mut pairs: Vec<(&Configuration, &Configuration)> = sweeps()
        .flat_map(|o| o.windows.iter().map(|w| (&o.settings, &w.settings)))
        .filter(|(a, b)| a != b)
        .collect();
    pairs.sort();
    pairs.dedup();
    let row = |(base, settings): (&Configuration, &Configuration)| {
        let of = |o: &&Observation| o.settings == *base;
        let windows: Vec<&Window> =
            sweeps().filter(of).flat_map(|o| &o.windows).filter(|w| w.settings == *settings).collect();
        let swept: Vec<f64> = windows.iter().filter_map(|w| Some(w.ratio?.ratio.ln())).collect();
        let rates = |c| {
            Some(launches.get(c)?.iter().filter_map(|o| o.throughput()).map(f64::ln).collect::<Vec<f64>>())
        };
        let (mine, other) = (rates(settings)?, rates(base)?);
        let peaks: Vec<f64> = launches[settings].iter().filter_map(|o| o.peak()).map(|p| p as f64).collect();
        let window_peaks: Vec<f64> = windows.iter().filter_map(|w| w.peak).map(|p| p as f64).collect();
        let ((swept, swept_error), (mine, mine_error), (other, other_error)) =
            (mean(&swept)?, mean(&mine)?, mean(&other)?);
        Some(json!({
            "beside": base.to_string(), "settings": settings.to_string(),
            "ratio_in_windows": swept.exp(), "standard_error_in_windows": swept_error,
            "ratio_of_launches": (mine - other).exp(), "standard_error_of_launches": mine_error.hypot(other_error),
            "difference": swept - (mine - other),
            "peak_of_windows": mean(&window_peaks).map(|m| m.0), "peak_of_launches": mean(&peaks).map(|m| m.0),
        }))
    };
    pairs.into_iter().filter_map(row).collect()
}

/// Prints them; differences in percent.
pub fn print(name: &str, rows: &[Value]) {
    println!("\n{name}: ratios in windows of a sweep and of launches");
    for r in rows {
        let f = |key: &str| r[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "  {:44} {:5.3} ± {:.3}   {:5.3} ± {:.3}   {:+5.1} %   peak {:+5.1} %",
            format!("{} beside {}", r["settings"].as_str().unwrap(), r["beside"].as_str().unwrap()),
            f("ratio_in_windows"),
            f("standard_error_in_windows"),
            f("ratio_of_launches"),
            f("standard_error_of_launches"),
            100.0 * f("difference"),
            100.0 * (f("peak_of_windows") / f("peak_of_launches") - 1.0),
        );
    }
}

/// Mean and its standard error; `None` of nothing.
fn mean(values: &[f64]) -> Option<(f64, f64)> {
    let n = values.len() as f64;
    let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Some((mean, (squares / (n - 1.0).max(1.0) / n).sqrt()))
}

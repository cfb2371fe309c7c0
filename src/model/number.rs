//! Numbers that may be no number: a diverged loss is NaN, JSON has no NaN.  They are written as `null` and read back as
//! NaN, so that what was measured can always be read again.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A type made of `f64`s, with its JSON form made of optional ones.
pub trait Maybe: Sized {
    /// The form that is written.
    type Json: Serialize + for<'de> Deserialize<'de>;
    /// `None` for what is not finite.
    fn to_json(&self) -> Self::Json;
    /// NaN for `None`.
    fn from_json(json: Self::Json) -> Self;
}

impl Maybe for f64 {
    type Json = Option<f64>;
    fn to_json(&self) -> Option<f64> {
        self.is_finite().then_some(*self)
    }
    fn from_json(json: Option<f64>) -> Self {
        json.unwrap_or(f64::NAN)
    }
}

impl Maybe for Vec<f64> {
    type Json = Vec<Option<f64>>;
    fn to_json(&self) -> Self::Json {
        self.iter().map(Maybe::to_json).collect()
    }
    fn from_json(json: Self::Json) -> Self {
        json.into_iter().map(f64::from_json).collect()
    }
}

impl Maybe for (f64, f64) {
    type Json = (Option<f64>, Option<f64>);
    fn to_json(&self) -> Self::Json {
        (self.0.to_json(), self.1.to_json())
    }
    fn from_json(json: Self::Json) -> Self {
        (f64::from_json(json.0), f64::from_json(json.1))
    }
}

/// For `#[serde(with = "number")]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<T: Maybe, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.to_json().serialize(serializer)
}

/// For `#[serde(with = "number")]`.
///
/// # Errors
/// The deserializer's.
pub fn deserialize<'de, T: Maybe, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::Json::deserialize(deserializer).map(T::from_json)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_no_number_comes_back_as_such() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Row {
            #[serde(with = "super")]
            one: f64,
            #[serde(with = "super")]
            many: Vec<f64>,
            #[serde(with = "super")]
            pair: (f64, f64),
        }
        let row = Row { one: f64::INFINITY, many: vec![0.1, f64::NAN], pair: (1.0, f64::NAN) };
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(json, r#"{"one":null,"many":[0.1,null],"pair":[1.0,null]}"#);
        let back: Row = serde_json::from_str(&json).unwrap();
        assert!(back.one.is_nan() && back.many[0] == 0.1 && back.many[1].is_nan() && back.pair.1.is_nan());
    }
}

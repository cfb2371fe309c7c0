//! The `ladder` part of a recipe.

use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::Rung;
use super::knobs::{KnobName, ValuesOf};
use crate::model::{Configuration, Knob};

impl<'de> Deserialize<'de> for Rung {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RungVisitor)
    }
}

struct RungVisitor;

impl<'de> Visitor<'de> for RungVisitor {
    type Value = Rung;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rung: a knob (`allocator`), a knob with values (`accumulation: [2, 4]`), or knobs that are turned together (`{amp: bf16, checkpoint: all}`)")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Rung, E> {
        let knob: Knob = name.parse().map_err(E::custom)?;
        Ok(Rung::Knob { knob, values: Vec::new() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rung, A::Error> {
        let mut moves = Vec::new();
        while let Some(KnobName(knob)) = map.next_key()? {
            moves.push((knob, map.next_value_seed(ValuesOf(knob))?));
        }
        match moves.len() {
            0 => Err(A::Error::custom("an empty rung; name a knob")),
            1 => {
                let (knob, values) = moves.remove(0);
                Ok(Rung::Knob { knob, values })
            }
            _ => {
                let mut together = Configuration::baseline();
                for (knob, values) in moves {
                    let [value] = values.as_slice() else {
                        return Err(A::Error::custom(format!(
                            "knobs that are turned together take one value each, but `{knob}` has {}",
                            values.len()
                        )));
                    };
                    if together.0.insert(knob, value.clone()).is_some() {
                        return Err(A::Error::custom(format!("`{knob}` stands here twice")));
                    }
                }
                Ok(Rung::Together(together))
            }
        }
    }
}

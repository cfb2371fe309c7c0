//! The `knobs` part of a recipe.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, de};

use super::KnobRule;
use super::error::nearest;
use super::scalars::{FromWord, Word, word};
use crate::model::knob::{Accepts, env_safe};
use crate::model::{Knob, Value};

/// A knob's name, with a suggestion when there is no such knob.
pub(super) struct KnobName(pub Knob);

impl FromWord for KnobName {
    const LOOKS: &'static str = "the name of a knob";

    fn from_word(name: &str) -> Result<Self, String> {
        name.parse().map(KnobName)
    }
}

impl<'de> Deserialize<'de> for KnobName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word(deserializer)
    }
}

/// All rules.
#[derive(Debug, Default)]
pub(super) struct KnobRules(pub BTreeMap<Knob, KnobRule>);

impl<'de> Deserialize<'de> for KnobRules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = KnobRules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of knobs, such as `amp: {off: true}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KnobRules, A::Error> {
                let mut rules = BTreeMap::new();
                while let Some(KnobName(knob)) = map.next_key()? {
                    let rule = map.next_value_seed(RuleOf(knob))?;
                    if rules.insert(knob, rule).is_some() {
                        return Err(A::Error::custom(format!("`{knob}` stands here twice")));
                    }
                }
                Ok(KnobRules(rules))
            }
        }
        deserializer.deserialize_map(V)
    }
}

/// Reads one rule, knowing its knob.
struct RuleOf(Knob);

const RULE_KEYS: &[&str] = &["args", "env", "values", "off"];

impl<'de> DeserializeSeed<'de> for RuleOf {
    type Value = KnobRule;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<KnobRule, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RuleOf {
    type Value = KnobRule;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what to do with `{}`: args, env, values or off", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KnobRule, A::Error> {
        let mut rule = KnobRule::default();
        while let Some(RuleKey(key)) = map.next_key()? {
            match key {
                "args" => rule.args = map.next_value::<Args>()?.0,
                "env" => rule.env = map.next_value::<Env>()?.0,
                "values" => rule.values = map.next_value_seed(ValuesOf(self.0))?,
                _ => rule.off = map.next_value()?,
            }
        }
        let knob = self.0;
        if rule.off && (!rule.args.is_empty() || !rule.env.is_empty() || !rule.values.is_empty()) {
            return Err(A::Error::custom(format!(
                "`{knob}` is off, so args, env and values have no meaning"
            )));
        }
        let spoken = rule.args.iter().chain(rule.env.values());
        let place = format!("{{{}}}", knob.name());
        if (!rule.args.is_empty() || !rule.env.is_empty())
            && !spoken.clone().any(|t| t.contains("{value}") || t.contains(&place))
        {
            return Err(A::Error::custom(format!(
                "nothing here changes with the value of `{knob}`; write {{value}} where it belongs"
            )));
        }
        if let Some(stray) = spoken.filter_map(|t| stray_placeholder(t, knob)).next() {
            let known = ["value", knob.name()];
            let meant = nearest(stray.trim_matches(['{', '}']), known);
            let hint = meant.map_or(String::new(), |m| format!("; did you mean `{{{m}}}`?"));
            return Err(A::Error::custom(format!(
                "`{stray}` is not a placeholder here, {{value}} and {place} are{hint}"
            )));
        }
        Ok(rule)
    }
}

/// A `{word}` in a template that is not the value.
fn stray_placeholder(template: &str, knob: Knob) -> Option<String> {
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let end = start + rest[start..].find('}')?;
        let word = &rest[start + 1..end];
        let is_word = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_word && word != "value" && word != knob.name() {
            return Some(rest[start..=end].to_owned());
        }
        rest = &rest[end + 1..];
    }
    None
}

struct RuleKey(&'static str);

impl<'de> Deserialize<'de> for RuleKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        RULE_KEYS
            .iter()
            .find(|k| **k == key)
            .map(|k| RuleKey(k))
            .ok_or_else(|| D::Error::unknown_field(&key, RULE_KEYS))
    }
}

/// Arguments: texts, or numbers written without quotes.
struct Args(Vec<String>);

impl<'de> Deserialize<'de> for Args {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<Word>::deserialize(deserializer)?.into_iter().map(|w| w.0).collect()))
    }
}

/// Environment variables: names and values that `.env` readers agree on.
struct Env(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = BTreeMap::<EnvName, EnvValue>::deserialize(deserializer)?;
        Ok(Self(raw.into_iter().map(|(name, value)| (name.0, value.0)).collect()))
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct EnvName(String);

impl FromWord for EnvName {
    const LOOKS: &'static str = "the name of an environment variable";

    fn from_word(name: &str) -> Result<Self, String> {
        let ok = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if ok {
            Ok(Self(name.to_owned()))
        } else {
            Err(format!("`{name}` is not the name of an environment variable"))
        }
    }
}

impl<'de> Deserialize<'de> for EnvName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word(deserializer)
    }
}

struct EnvValue(String);

impl FromWord for EnvValue {
    const LOOKS: &'static str = "a text, such as \"{value}\"";

    fn from_word(value: &str) -> Result<Self, String> {
        let bare: String = value.chars().filter(|c| !"{}".contains(*c)).collect();
        if env_safe(&bare) {
            Ok(Self(value.to_owned()))
        } else {
            Err(format!(
                "`{value}` would not survive every reader of .env files; use letters, digits and _./:,=+-"
            ))
        }
    }
}

impl<'de> Deserialize<'de> for EnvValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word(deserializer)
    }
}

/// A list of values of one knob; a single value is a list of one.
pub(super) struct ValuesOf(pub Knob);

impl<'de> DeserializeSeed<'de> for ValuesOf {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValuesOf {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "values of `{}`, such as [...]", self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Value>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(ValueOf(self.0))? {
            values.push(value);
        }
        if values.is_empty() {
            return Err(A::Error::custom(format!(
                "the list is empty; to forbid `{}` write `off: true`",
                self.0
            )));
        }
        Ok(values)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Vec<Value>, E> {
        ValueOf(self.0).visit_str(v).map(|v| vec![v])
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Vec<Value>, E> {
        ValueOf(self.0).visit_bool(v).map(|v| vec![v])
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Vec<Value>, E> {
        ValueOf(self.0).visit_i64(v).map(|v| vec![v])
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Vec<Value>, E> {
        ValueOf(self.0).visit_u64(v).map(|v| vec![v])
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Vec<Value>, E> {
        ValueOf(self.0).visit_f64(v).map(|v| vec![v])
    }
}

/// One value of one knob.
pub(super) struct ValueOf(pub Knob);

impl ValueOf {
    fn checked<E: de::Error>(self, value: Value) -> Result<Value, E> {
        self.0.check(&value).map_err(E::custom)?;
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for ValueOf {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for ValueOf {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of `{}`", self.0)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        if self.0.accepts() == Accepts::Share {
            return self.0.parse_value(v).map_err(E::custom);
        }
        self.checked(Value::Text(v.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        self.checked(Value::Bool(v))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        self.visit_str(&v.to_string())
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        if self.0.accepts() == Accepts::Share {
            return self.visit_str(&v.to_string());
        }
        self.checked(Value::Int(v))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        match i64::try_from(v) {
            Ok(v) => self.visit_i64(v),
            Err(_) => Err(E::invalid_value(Unexpected::Unsigned(v), &self)),
        }
    }
}

//! Single values of a recipe.  Each is read inside serde's visitor, so that an error carries the value's own place.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de::Error};

use crate::model::plan::Device;
use crate::model::size::{parse_bytes, parse_share};

/// The version of the format; a recipe may state it.
const FORMAT: &str = "1";

/// No program can be given such a word.
const NUL: &str = "there is a NUL character in it, which no command can be given";

/// Something that is written as one word or number.
pub(super) trait FromWord: Sized {
    /// What it looks like.
    const LOOKS: &'static str;

    /// Reads it.
    fn from_word(word: &str) -> Result<Self, String>;
}

/// Reads a [`FromWord`]; numbers and truth values may stand without quotes.
pub(super) fn word<'de, D: Deserializer<'de>, T: FromWord>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(WordVisitor(PhantomData))
}

struct WordVisitor<T>(PhantomData<T>);

impl<T: FromWord> Visitor<'_> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::LOOKS)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
        T::from_word(v).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<T, E> {
        self.visit_str(&v.to_string())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<T, E> {
        self.visit_str(&v.to_string())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<T, E> {
        self.visit_str(&v.to_string())
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<T, E> {
        self.visit_str(if v { "true" } else { "false" })
    }
}

macro_rules! read_as_words {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                word(deserializer)
            }
        }
    )*};
}

read_as_words!(Word, Version, DeviceWord, Size, Seconds, Share, Positive);

/// A text.
pub(super) struct Word(pub String);

impl FromWord for Word {
    const LOOKS: &'static str = "a text (put it in quotes if it has braces or a colon)";

    fn from_word(word: &str) -> Result<Self, String> {
        if word.contains('\0') { Err(NUL.to_owned()) } else { Ok(Self(word.to_owned())) }
    }
}

/// `version: 1`.
pub(super) struct Version;

impl FromWord for Version {
    const LOOKS: &'static str = "the version of the format, 1";

    fn from_word(word: &str) -> Result<Self, String> {
        if word == FORMAT {
            Ok(Self)
        } else {
            Err(format!("this version of autofit reads recipes of version {FORMAT}, not {word}"))
        }
    }
}

/// `auto`, `cuda`, `cpu`.
#[derive(Default, Clone, Copy)]
pub(super) struct DeviceWord(pub Option<Device>);

impl FromWord for DeviceWord {
    const LOOKS: &'static str = "auto, cuda or cpu";

    fn from_word(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self(None)),
            "cuda" => Ok(Self(Some(Device::Cuda))),
            "cpu" => Ok(Self(Some(Device::Cpu))),
            "gpu" => Err("`gpu` is not one of auto, cuda, cpu; did you mean `cuda`?".to_owned()),
            other => Err(format!("`{other}` is not one of auto, cuda, cpu")),
        }
    }
}

/// A memory size, bytes.
pub(super) struct Size(pub u64);

impl FromWord for Size {
    const LOOKS: &'static str = "a memory size, such as 24GiB";

    fn from_word(word: &str) -> Result<Self, String> {
        parse_bytes(word).map(Self)
    }
}

/// A time: `90s`, `10m`, `1h`, or a number of seconds.
pub(super) struct Seconds(pub f64);

impl FromWord for Seconds {
    const LOOKS: &'static str = "a time, such as 10m";

    fn from_word(word: &str) -> Result<Self, String> {
        let split = word.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(word.len());
        let (number, unit) = word.split_at(split);
        let factor = match unit.trim() {
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => f64::NAN,
        };
        match number.parse::<f64>().map(|n| n * factor) {
            Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(Self(seconds)),
            _ => Err(format!("`{word}` is not a time; write it like 90s, 10m or 1h")),
        }
    }
}

/// A share: `0.05` or `5%`.
pub(super) struct Share(pub f64);

impl FromWord for Share {
    const LOOKS: &'static str = "a share, such as 5%";

    fn from_word(word: &str) -> Result<Self, String> {
        parse_share(word).map(Self)
    }
}

/// A whole number from 1 up.
#[derive(Clone, Copy)]
pub(super) struct Positive(pub u64);

impl FromWord for Positive {
    const LOOKS: &'static str = "a whole number from 1 up";

    fn from_word(word: &str) -> Result<Self, String> {
        match word.parse() {
            Ok(n) if n > 0 => Ok(Self(n)),
            _ => Err(format!("`{word}` is not a whole number from 1 up")),
        }
    }
}

/// A command: a list of words, or one line as typed in a shell.
pub(super) struct Command(pub Vec<String>);

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CommandVisitor)
    }
}

struct CommandVisitor;

impl<'de> Visitor<'de> for CommandVisitor {
    type Value = Command;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command: a list of words, or one line as typed in a shell")
    }

    fn visit_str<E: de::Error>(self, line: &str) -> Result<Command, E> {
        match shell_words::split(line) {
            Ok(_) if line.contains('\0') => Err(E::custom(NUL)),
            Ok(words) if !words.is_empty() => Ok(Command(words)),
            Ok(_) => Err(E::custom("the command is empty")),
            Err(_) => Err(E::custom("the command has a quote that is not closed")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Command, A::Error> {
        let mut words = Vec::new();
        while let Some(Word(word)) = seq.next_element()? {
            words.push(word);
        }
        if words.is_empty() { Err(A::Error::custom("the command is empty")) } else { Ok(Command(words)) }
    }
}

//! What is wrong with a recipe, where, and what was meant.

use std::fmt;
use std::path::PathBuf;

/// A mistake in a recipe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RecipeError {
    /// As given to [`super::load`].
    pub file: PathBuf,
    /// From 1, where known.
    pub line: Option<u32>,
    /// From 1, where known.
    pub column: Option<u32>,
    /// `knobs.amp.values[0]`, where known.
    pub key: Option<String>,
    /// What kind of mistake.
    pub kind: RecipeErrorKind,
    /// One sentence: what is wrong and what it takes instead.
    pub message: String,
    /// The word that was probably meant.
    pub meant: Option<String>,
}

/// Kinds of mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipeErrorKind {
    /// Not YAML.
    Syntax,
    /// A key that the format does not have.
    UnknownKey,
    /// A knob that does not exist.
    UnknownKnob,
    /// A value that the key or the knob does not take.
    BadValue,
    /// No shipped recipe has this name.
    UnknownRecipe,
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(meant) = &self.meant {
            write!(f, "; did you mean `{meant}`?")?;
        }
        Ok(())
    }
}

/// The word among `words` that `text` was probably meant to be.
pub(super) fn nearest<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_ascii_lowercase().replace('-', "_");
    words
        .into_iter()
        .map(|w| (strsim::jaro_winkler(&lower, w), w))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, w)| w)
}

//! Words of a command that set an option of the script.
//!
//! An option that the command has already is replaced where it stands; another one is added where its parser looks for
//! it: at the end of the command, before a `--` of the script's own, or before the subcommand that ends its part.

use std::ffi::{OsStr, OsString};

use serde::{Deserialize, Serialize};

/// One option, as it shall stand in a command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Edit {
    /// Words that set it; none where it is only taken away.
    pub words: Vec<String>,
    /// What it may be called in the command already: `-b`, `--batch-size`, `train.batch_size`.
    pub flags: Vec<String>,
    /// Whether the word after such a name can be its value.
    pub takes_value: bool,
    /// Where its parser looks for it.
    pub place: Place,
}

/// The part of a command that a parser reads.  Words are kept beside the numbers, so that it is found in a command
/// that was typed a little differently.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Words before it.
    pub first: usize,
    /// The last of them: the script, or a subcommand.  `None`: it is not known who reads the command.
    pub anchor: Option<String>,
    /// Words up to its end, where it does not reach to the end of the command.
    pub after: usize,
    /// The word there: a subcommand, or a program that takes the rest.
    pub until: Option<String>,
    /// Before the command: a program that starts it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub front: bool,
}

impl Place {
    /// The words `first..after` of `command`, which was inspected.
    pub fn of(command: &[String], first: usize, after: usize) -> Self {
        Self {
            first,
            anchor: first.checked_sub(1).and_then(|i| command.get(i)).cloned(),
            after,
            until: command.get(after).cloned(),
            front: false,
        }
    }

    /// The same part of another command.
    fn span(&self, command: &[OsString]) -> (usize, usize) {
        let find = |word: &str, from: usize| {
            let rest = command.get(from..).unwrap_or_default();
            rest.iter().position(|w| w == OsStr::new(word)).map(|i| from + i)
        };
        if self.front {
            return (0, 0);
        }
        let Some(anchor) = &self.anchor else { return (0, command.len()) };
        // Words that were added before it only push it further back.
        let near = find(anchor, self.first.saturating_sub(1)).or_else(|| find(anchor, 0));
        let first = near.map_or(command.len(), |i| i + 1);
        let end = match &self.until {
            Some(word) if self.after >= first => find(word, self.after).or_else(|| find(word, first)),
            Some(word) => find(word, first),
            None => None,
        };
        let end = end.unwrap_or(command.len());
        (first, find("--", first).filter(|dashes| *dashes < end).unwrap_or(end))
    }
}

impl Edit {
    /// Words of a recipe (`["--batch-size", "8", "--fast"]`), one edit an option.
    pub fn of_words(words: &[String], place: &Place) -> Vec<Self> {
        let mut edits: Vec<Self> = Vec::new();
        for word in words {
            let named = word.split_once('=').map(|(name, _)| name);
            match edits.last_mut() {
                Some(last) if !word.starts_with('-') && named.is_none() && last.waits() => {
                    last.words.push(word.clone());
                    last.takes_value = true;
                }
                _ => {
                    let flag = named.or_else(|| word.starts_with('-').then_some(word));
                    edits.push(Self {
                        words: vec![word.clone()],
                        flags: flag.map(str::to_owned).into_iter().collect(),
                        takes_value: named.is_some(),
                        place: place.clone(),
                    });
                }
            }
        }
        edits
    }

    /// Words before the command, of a program that starts it.
    pub fn before(words: Vec<String>) -> Self {
        Self { words, place: Place { front: true, ..Place::default() }, ..Self::default() }
    }

    /// `--batch-size`, whose value is the next word.
    fn waits(&self) -> bool {
        self.words.len() == 1 && self.words[0].starts_with('-') && !self.words[0].contains('=')
    }

    /// How many words from `at` on are this option.
    fn length(&self, command: &[OsString], at: usize, after: usize) -> Option<usize> {
        let word = command[at].to_str()?;
        for flag in &self.flags {
            let rest = match flag.strip_prefix('-') {
                Some(_) => word.strip_prefix(flag.as_str()),
                None => {
                    word.trim_start_matches('+').strip_prefix(flag.as_str()).filter(|r| r.starts_with('='))
                }
            };
            match rest {
                Some("") => {
                    let value = command.get(at + 1).filter(|_| at + 1 < after).and_then(|w| w.to_str());
                    let follows = value.is_some_and(|v| !v.starts_with('-') || v.parse::<f64>().is_ok());
                    return Some(if self.takes_value && follows { 2 } else { 1 });
                }
                Some(rest) if rest.starts_with('=') => return Some(1),
                // `-b32`
                Some(rest) if flag.len() == 2 && rest.starts_with(|c: char| c.is_ascii_digit()) => {
                    return Some(1);
                }
                _ => {}
            }
        }
        None
    }

    fn apply(&self, command: &mut Vec<OsString>) {
        let (first, mut after) = self.place.span(command);
        let mut at = first;
        let mut stood = None;
        while at < after {
            match self.length(command, at, after) {
                Some(length) => {
                    command.drain(at..at + length);
                    after -= length;
                    stood = Some(at);
                }
                None => at += 1,
            }
        }
        let at = stood.unwrap_or(after);
        command.splice(at..at, self.words.iter().map(OsString::from));
    }
}

/// `command` with the options set.
pub fn apply(command: &[OsString], edits: &[Edit]) -> Vec<OsString> {
    let mut command = command.to_vec();
    for edit in edits {
        edit.apply(&mut command);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// `--batch-size=8` in a command whose parser reads the words from `first` to `after` of `inspected`.
    fn edit(inspected: &str, first: usize, after: usize) -> Edit {
        Edit {
            words: words("--batch-size=8"),
            flags: words("-b --batch-size"),
            takes_value: true,
            place: Place::of(&words(inspected), first, after),
        }
    }

    fn applied(typed: &str, edit: &Edit) -> String {
        let command: Vec<OsString> = words(typed).into_iter().map(OsString::from).collect();
        let done = apply(&command, std::slice::from_ref(edit));
        done.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn an_option_is_replaced_where_it_stands_or_added_at_the_end() {
        let cases = [
            ("python t.py", "python t.py --batch-size=8"),
            ("python t.py --lr 1", "python t.py --lr 1 --batch-size=8"),
            ("python t.py --batch-size 32 --lr 1", "python t.py --batch-size=8 --lr 1"),
            ("python t.py --batch-size=32 --lr 1", "python t.py --batch-size=8 --lr 1"),
            ("python t.py -b 32 x", "python t.py --batch-size=8 x"),
            ("python t.py -b32 x", "python t.py --batch-size=8 x"),
            ("python t.py -b 32 --x -b 64 y", "python t.py --x --batch-size=8 y"),
            (
                "python t.py --batch-size-test 3 -best 4",
                "python t.py --batch-size-test 3 -best 4 --batch-size=8",
            ),
            // A word of the program before the script is not the script's.
            ("python -b t.py", "python -b t.py --batch-size=8"),
        ];
        for (typed, wanted) in cases {
            let head = words(typed).iter().position(|w| w == "t.py").unwrap() + 1;
            let count = words(typed).len();
            assert_eq!(applied(typed, &edit(typed, head, count)), wanted, "{typed}");
        }
    }

    #[test]
    fn it_stays_within_the_part_that_its_parser_reads() {
        // A `--` of the script's own ends its options; one before the script does not.
        let typed = "python t.py --lr 1 -- -b 3";
        assert_eq!(applied(typed, &edit(typed, 2, 7)), "python t.py --lr 1 --batch-size=8 -- -b 3");
        let typed = "uv run -- t.py --lr 1";
        assert_eq!(applied(typed, &edit(typed, 4, 6)), "uv run -- t.py --lr 1 --batch-size=8");
        // Before the subcommand, and after it.
        let typed = "python t.py --lr 1 train --name train";
        assert_eq!(
            applied(typed, &edit(typed, 2, 4)),
            "python t.py --lr 1 --batch-size=8 train --name train"
        );
        assert_eq!(
            applied(typed, &edit(typed, 5, 7)),
            "python t.py --lr 1 train --name train --batch-size=8"
        );
    }

    #[test]
    fn it_is_found_in_a_command_that_was_typed_a_little_differently() {
        let before = edit("python t.py train --lr 1", 2, 2);
        assert_eq!(
            applied("python t.py --seed 3 train", &before),
            "python t.py --seed 3 --batch-size=8 train"
        );
        let below = edit("python t.py train --lr 1", 3, 5);
        assert_eq!(
            applied("python t.py --seed 3 train", &below),
            "python t.py --seed 3 train --batch-size=8"
        );
        assert_eq!(applied("other", &below), "other --batch-size=8");
    }

    #[test]
    fn keys_without_dashes_are_replaced_too() {
        let edit = Edit {
            words: words("train.batch_size=8"),
            flags: words("train.batch_size"),
            takes_value: true,
            place: Place::of(&words("python t.py"), 2, 2),
        };
        let cases = [
            ("python t.py train.batch_size=4 x=1", "python t.py train.batch_size=8 x=1"),
            ("python t.py ++train.batch_size=4", "python t.py train.batch_size=8"),
            ("python t.py train.batch_size_test=4", "python t.py train.batch_size_test=4 train.batch_size=8"),
        ];
        for (typed, wanted) in cases {
            assert_eq!(applied(typed, &edit), wanted);
        }
    }

    #[test]
    fn a_switch_takes_no_value_and_can_be_taken_away() {
        let typed = "python t.py --amp x";
        let mut edit = edit(typed, 2, 4);
        (edit.flags, edit.takes_value) = (words("--amp --no-amp"), false);
        edit.words = words("--no-amp");
        assert_eq!(applied(typed, &edit), "python t.py --no-amp x");
        edit.words.clear();
        assert_eq!(applied(typed, &edit), "python t.py x");
    }

    #[test]
    fn words_of_a_recipe_are_told_apart() {
        let edits = Edit::of_words(&words("--bs 8 --fast --lr=1 train.x=2 plain"), &Place::default());
        let parts: Vec<(String, String)> =
            edits.iter().map(|e| (e.words.join(" "), e.flags.join(" "))).collect();
        let expected =
            [("--bs 8", "--bs"), ("--fast", "--fast"), ("--lr=1", "--lr"), ("train.x=2", "train.x")];
        let expected = expected.into_iter().chain([("plain", "")]);
        assert_eq!(parts, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).collect::<Vec<_>>());
    }
}

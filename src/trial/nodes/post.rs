//! The files through which machines talk, in a folder that all of them see.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::word::Word;
use crate::agent::Tail;

/// One machine's own file, and those of the others as far as they are read.
#[derive(Debug)]
pub struct Post {
    mine: File,
    others: Vec<(u32, PathBuf, Tail)>,
}

/// Makes the files of `of` machines, before the first of them looks for another's.
///
/// # Errors
/// When the folder cannot be written.
pub fn lay_out(dir: &Path, of: u32) -> io::Result<()> {
    (0..of).try_for_each(|node| File::create_new(path(dir, node)).map(drop))
}

fn path(dir: &Path, node: u32) -> PathBuf {
    dir.join(format!("node-{node}.jsonl"))
}

impl Post {
    /// Opens machine `me`'s.
    ///
    /// # Errors
    /// It is not there: nobody has laid it out, or this is another folder.
    pub fn open(dir: &Path, me: u32, of: u32) -> io::Result<Self> {
        let mine = OpenOptions::new().append(true).open(path(dir, me))?;
        let others = (0..of).filter(|n| *n != me).map(|n| (n, path(dir, n), Tail::default())).collect();
        Ok(Self { mine, others })
    }

    /// Tells the others; they can read it when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn send(&mut self, words: &[Word]) -> io::Result<()> {
        let mut lines = Vec::new();
        for word in words {
            serde_json::to_writer(&mut lines, word)?;
            lines.push(b'\n');
        }
        self.mine.write_all(&lines)?;
        self.mine.sync_data()
    }

    /// What the others have said since, and who did.
    pub fn read(&mut self) -> Vec<(u32, Word)> {
        let mut words = Vec::new();
        for (node, path, tail) in &mut self.others {
            let said = tail.lines(path).into_iter();
            // A line that is none is damage to the shared folder: who wrote it will seem silent.
            words.extend(said.filter_map(|line| Some((*node, serde_json::from_slice(&line).ok()?))));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hears_what_the_others_say_once() {
        let dir = tempfile::tempdir().unwrap();
        lay_out(dir.path(), 3).unwrap();
        let mut posts: Vec<Post> = (0..3).map(|n| Post::open(dir.path(), n, 3).unwrap()).collect();
        let here = Word::Here { host: "n1".to_owned() };
        posts[1].send(&[here.clone(), Word::Beat]).unwrap();
        posts[2].send(&[Word::Beat]).unwrap();
        assert_eq!(posts[0].read(), [(1, here.clone()), (1, Word::Beat), (2, Word::Beat)]);
        assert_eq!(posts[2].read(), [(1, here), (1, Word::Beat)]);
        assert!(posts[0].read().is_empty());
        assert!(Post::open(dir.path(), 3, 4).is_err(), "a fourth was not laid out");
    }
}

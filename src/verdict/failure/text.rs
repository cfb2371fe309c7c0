//! From what a program left on its terminal to lines that can be read.
//!
//! People paste logs with colours, progress bars that overwrite themselves, prefixes of ranks and containers, quoted
//! exceptions with `\n` inside, markdown, echoes of source lines.  All of that goes, so that the rest of the room sees
//! the words alone.

use std::sync::LazyLock;

use regex::Regex;

/// Texts longer than this are cut down to what can matter ([`digest`]) before they are read.
const WHOLE: usize = 512 << 10;
/// Most that is kept of a long text: as much at its front as at its end.
const KEPT: usize = 1 << 20;
/// Lines kept around one that can matter: enough for a message that was broken across lines, and to see whether the
/// program went on.
const BEFORE: usize = 4;
const AFTER: usize = 12;

/// Bytes to text: UTF-8, or the UTF-16 that a Windows shell writes into redirected files; `None` for something that is
/// not text (more than a tenth of its first part is control characters).
pub fn decode(bytes: &[u8]) -> Option<String> {
    let text = match bytes {
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    let (mut odd, mut all) = (0_usize, 0_usize);
    for c in text.chars().take(64 << 10) {
        all += 1;
        let blank = matches!(c, '\n' | '\r' | '\t' | '\x1b' | '\x08' | '\x0c' | '\x07');
        odd += usize::from(c == char::REPLACEMENT_CHARACTER || (c.is_control() && !blank));
    }
    (odd * 10 <= all).then_some(text)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Words without which a line of a long log says nothing about a failure.
static MATTERS: LazyLock<Regex> = LazyLock::new(|| {
    let words = "memory|oom|alloc|kill|error|exception|traceback|exit|signal|errno|failed|assert|shm|shared|ancdata\
                 |files|limit|cuda|nccl|fault|abort|space left|interrupt|cancelled|skipp|retry|finish|done|complete\
                 |内存|显存|memoria|mémoire|speicher";
    Regex::new(&format!("(?i){words}")).expect("a fixed pattern")
});

/// The stricter choice, for logs in which every line has one of the words above.
static MATTERS_MOST: LazyLock<Regex> = LazyLock::new(|| {
    let words = "out of memory|memoryerror|outofmemory|exceed|bad_alloc|allocat\\w+ (?:memory|on device)|oom|killed\
                 |alloc_failed|_status_|errno|traceback|error: |exitcode|exit (?:code|status)|signal|shm|ancdata\
                 |open files|assert|illegal|space left|interrupt|cancelled|skipp|显存|nvml_success|valid cudnn|engine";
    Regex::new(&format!("(?i){words}")).expect("a fixed pattern")
});

/// A long log, cut down: its first and last part, and what can matter between them with the lines around.
pub fn digest(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= WHOLE {
        return text.into();
    }
    let lines: Vec<&str> = text.split(['\n', '\r']).collect();
    let mut out = chosen(&lines, &MATTERS);
    if out.len() > KEPT {
        out = chosen(&lines, &MATTERS_MOST);
    }
    if out.len() > KEPT {
        let front = cut(&out, 0, KEPT / 2);
        let from = out.len() - KEPT / 2;
        out = format!("{front}\n{}", cut(&out, from, KEPT));
    }
    out.into()
}

/// The lines at both edges and those that matter, with the lines around them.
fn chosen(lines: &[&str], matters: &Regex) -> String {
    let mut keep = vec![false; lines.len()];
    let edge = 200.min(lines.len());
    keep[..edge].fill(true);
    keep[lines.len() - edge..].fill(true);
    for (i, line) in lines.iter().enumerate() {
        if matters.is_match(cut(line, 0, 4096)) {
            keep[i.saturating_sub(BEFORE)..(i + AFTER + 1).min(lines.len())].fill(true);
        }
    }
    let mut out = String::new();
    for (line, _) in lines.iter().zip(keep).filter(|(_, k)| *k) {
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// At most `length` bytes of `text` from `from`, on character boundaries.
pub fn cut(text: &str, from: usize, length: usize) -> &str {
    let boundary = |mut i: usize| {
        i = i.min(text.len());
        while !text.is_char_boundary(i) {
            i -= 1;
        }
        i
    };
    let start = boundary(from);
    &text[start..boundary(start.saturating_add(length)).max(start)]
}

/// Colours and cursor movements, titles of terminal windows.
static ESCAPES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|\[\d+(?:;\d+)*m|\\u001b\[[\d;]*m|\\x1b\[[\d;]*m|\\033\[[\d;]*m")
        .expect("a fixed pattern")
});

/// HTML of saved notebooks and pages.
static TAGS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"</?(?:span|pre|code|p|div|b|i|em|strong|font|td|tr|a)(?:\s[^<>]*)?>")
        .expect("a fixed pattern")
});
const ENTITIES: &[(&str, &str)] = &[
    ("&gt;", ">"),
    ("&lt;", "<"),
    ("&quot;", "\""),
    ("&#39;", "'"),
    ("&#x27;", "'"),
    ("&nbsp;", " "),
    ("&amp;", "&"),
    ("<br>", "\n"),
    ("<br/>", "\n"),
];

/// What launchers, containers and mail programs put in front of each line.
static PREFIX: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)^(?:
            \[(?:default\d+|rank\d+|Rank\ \d+|\d+,\d+<std\w+>)\]:\s?(?:\[rank\d+\]:\s?)?   # torchrun, mpirun
          | \d{1,4}:\s                                                          # srun --label
          | \((?:[^()=]*\s)?pid=\d+[^()]*\)\s                                   # ray, servers
          | >+\s                                                                # quoted mail, markdown
          | \s*(?:\#{1,6}|//)\s                                                 # comments, headings
          | [\w.-]{1,40}\s+\|\s                                                 # docker compose
          | [│┃║]\s?                                                            # boxes of rich
        )",
    )
    .expect("a fixed pattern")
});

/// Source lines that tracebacks echo: rich's and IPython's pointers.
static ECHO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\s*(?:❱?\s*\d+\s*[│|]|-{2,}>\s*\d+\s|❱\s*\d+\s)").expect("a fixed pattern")
});

/// A frame of a traceback; the indented line after it is an echo of the source.
static FRAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"^\s*File ["'“].*["'”], line \d+"#).expect("a fixed pattern"));

/// The words alone: one line a line, without colours, prefixes and echoes of source code.
pub fn clean(text: &str) -> String {
    let text = ESCAPES.replace_all(text, "");
    let mut text = TAGS.replace_all(&text, "").into_owned();
    for (entity, plain) in ENTITIES {
        if text.contains(entity) {
            text = text.replace(entity, plain);
        }
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' | '\x0b' | '\x0c' | '\u{2028}' | '\u{85}' => plain.push('\n'),
            // A repr of an exception has its line breaks written out; a Windows path may look the same, and then a
            // break in it does no harm.
            '\\' if chars.peek() == Some(&'n') => {
                chars.next();
                plain.push('\n');
            }
            '\u{a0}' | '\u{202f}' | '\u{3000}' | '\t' => plain.push(' '),
            '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{feff}' | '\u{ad}' | '\x07' | '\x08' | '\0' => {}
            '，' => plain.push_str(", "),
            '：' => plain.push_str(": "),
            '；' => plain.push_str("; "),
            '（' => plain.push('('),
            '）' => plain.push(')'),
            '。' => plain.push_str(". "),
            '‘' | '’' => plain.push('\''),
            '“' | '”' => plain.push('"'),
            // Markdown.
            '`' => {}
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
            }
            c => plain.push(c),
        }
    }
    let mut out = String::with_capacity(plain.len());
    let mut after_frame = false;
    for raw in plain.lines() {
        let mut line = raw;
        for _ in 0..3 {
            match PREFIX.find(line) {
                Some(m) => line = &line[m.end()..],
                None => break,
            }
        }
        let echo = ECHO.is_match(line) || (after_frame && line.starts_with("   ") && !line.trim().is_empty());
        after_frame = FRAME.is_match(line);
        if !echo {
            out.push_str(line.trim_end());
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_prefixes_and_echoes_go() {
        assert_eq!(clean("\x1b[31mRuntimeError\x1b[0m: x\r[rank3]: y"), "RuntimeError: x\ny\n");
        assert_eq!(clean("worker-1  | CUDA"), "CUDA\n");
        assert_eq!(clean("> > **quoted**"), "quoted\n");
        let traceback = "  File \"a.py\", line 3, in f\n    raise MemoryError()\nValueError: x";
        assert_eq!(clean(traceback), "  File \"a.py\", line 3, in f\n\nValueError: x\n");
        assert_eq!(clean("---> 89     raise MemoryError"), "\n");
        assert_eq!(clean("RuntimeError('a\\nb')"), "RuntimeError('a\nb')\n");
    }

    #[test]
    fn what_windows_redirects_is_text_and_a_picture_is_not() {
        let mut utf16 = vec![0xFF, 0xFE];
        utf16.extend("CUDA: Ö".encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(decode(&utf16).as_deref(), Some("CUDA: Ö"));
        assert_eq!(decode(b"plain\n").as_deref(), Some("plain\n"));
        assert!(decode(&(0..=255).cycle().take(4096).collect::<Vec<u8>>()).is_none());
    }

    #[test]
    fn a_long_log_keeps_what_matters() {
        let mut log = "step 1 loss 0.5\n".repeat(100_000);
        log.push_str("RuntimeError: here\n");
        log.push_str(&"step 2 loss 0.4\n".repeat(100_000));
        let short = digest(&log);
        assert!(short.contains("RuntimeError: here") && short.len() < 20_000, "{}", short.len());
    }
}

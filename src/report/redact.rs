//! Keeps secrets out of what is written and shown.
//!
//! Two kinds: values of environment variables whose names say that they are secret, wherever they turn up in a text;
//! and arguments of the command that look like one.

/// Parts of names, of variables and options, whose values are secret.
const SECRET_NAMES: [&str; 8] =
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "CREDENTIAL", "ACCESS_KEY"];

/// Options that match by name but hold a figure: tokenizers have tokens of their own.
const NOT_SECRET: [&str; 2] = ["TOKENS", "TOKENIZER"];

/// Heads of well-known tokens.
const SECRET_HEADS: [&str; 6] = ["hf_", "sk-", "ghp_", "github_pat_", "AKIA", "xoxb-"];

/// Shorter values are not replaced in texts: they would match by chance.
const SHORTEST: usize = 8;

/// Stands for a secret.
pub const MASK: &str = "***";

/// Whether the values of this variable or option are secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.trim_start_matches('-').replace('-', "_").to_ascii_uppercase();
    let plain = NOT_SECRET.iter().fold(name, |n, word| n.replace(word, ""));
    SECRET_NAMES.iter().any(|s| plain.contains(s))
}

/// The command without secret arguments (`--token X`, `--api-key=X`, `hf_...`).
pub fn command(argv: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(argv.len());
    let mut next_is_secret = false;
    for arg in argv {
        if next_is_secret && !arg.starts_with("--") {
            out.push(MASK.to_owned());
            next_is_secret = false;
            continue;
        }
        next_is_secret = false;
        match arg.split_once('=') {
            Some((name, _)) if is_secret_name(name) => out.push(format!("{name}={MASK}")),
            _ if arg.starts_with('-') && is_secret_name(arg) => {
                next_is_secret = true;
                out.push(arg.clone());
            }
            _ if looks_secret(arg) => out.push(MASK.to_owned()),
            _ => out.push(arg.clone()),
        }
    }
    out
}

fn looks_secret(word: &str) -> bool {
    SECRET_HEADS.iter().any(|h| word.starts_with(h) && word.len() >= h.len() + 16)
        && !word.contains(['/', '.', ' '])
}

/// Replaces the values of secret environment variables in texts.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    secrets: Vec<(String, String)>,
}

impl Redactor {
    /// For these variables (usually [`std::env::vars`]).
    pub fn new(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut secrets: Vec<_> =
            vars.into_iter().filter(|(k, v)| is_secret_name(k) && v.len() >= SHORTEST).collect();
        // Longer ones first: one secret may contain another.
        secrets.sort_by_key(|(_, v)| std::cmp::Reverse(v.len()));
        Self { secrets }
    }

    /// For this process's environment.  Variables that are not UTF-8 are passed over.
    pub fn of_environment() -> Self {
        Self::new(
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    /// `text` with `<NAME>` for each value.
    pub fn text(&self, text: &str) -> String {
        self.secrets
            .iter()
            .fold(text.to_owned(), |t, (name, value)| t.replace(value.as_str(), &format!("<{name}>")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn secret_arguments_are_masked_and_others_are_not() {
        let masked = |line: &str| command(&words(line)).join(" ");
        assert_eq!(masked("python t.py --hub-token abc --lr 1"), "python t.py --hub-token *** --lr 1");
        assert_eq!(masked("python t.py --api_key=abc"), "python t.py --api_key=***");
        assert_eq!(masked("python t.py hf_abcdefghijklmnopqrstuvw"), "python t.py ***");
        assert_eq!(masked("python t.py --use-token --lr 1"), "python t.py --use-token --lr 1");
        let line = "python t.py --max-tokens 512 --tokenizer gpt2 --key 3";
        assert_eq!(masked(line), line);
    }

    #[test]
    fn values_of_secret_variables_are_replaced_in_texts() {
        let r = Redactor::new([
            ("HF_TOKEN".to_owned(), "hf_0123456789".to_owned()),
            ("HOME".to_owned(), "/home/me".to_owned()),
            ("MY_TOKEN".to_owned(), "short".to_owned()),
        ]);
        assert_eq!(
            r.text("bad token hf_0123456789 in /home/me, short"),
            "bad token <HF_TOKEN> in /home/me, short"
        );
    }
}

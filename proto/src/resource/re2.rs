//! RE2's dialect of regular expressions, which every other runtime and Envoy speak, in the words of
//! the `regex` crate.
//!
//! The two agree on nearly everything. What is written here is the rest: constructions that mean
//! something else there (`[a&&b]`, `\<`), that only one of them has (`\Q..\E`, `(?x)`, `\u0041`), or
//! that differ in range (`\d` is ten digits, not Unicode's). Routes decide who may call what, so an
//! expression must not match more here than elsewhere.

use std::iter::Peekable;
use std::str::CharIndices;

/// More repetitions than this are refused.
const MAX_REPEAT: u32 = 1000;

/// The same expression for the `regex` crate.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut reader = Reader {
        pattern,
        rest: pattern.char_indices().peekable(),
        out: String::with_capacity(pattern.len() + 8),
    };
    reader.run()?;
    Ok(reader.out)
}

struct Reader<'a> {
    pattern: &'a str,
    rest: Peekable<CharIndices<'a>>,
    out: String,
}

impl Reader<'_> {
    fn run(&mut self) -> Result<(), String> {
        // Whether what stands before is a repetition, which must not be repeated.
        let mut repeated = false;
        while let Some((at, c)) = self.rest.next() {
            let repeats = match c {
                '*' | '+' | '?' => {
                    self.out.push(c);
                    true
                }
                '{' => self.braces(at)?,
                _ => false,
            };
            if repeats && repeated {
                return Err(format!(
                    "a repetition of a repetition in {:?}",
                    self.pattern
                ));
            }
            if repeats {
                // Not a second repetition: it makes the first one lazy.
                if let Some((_, lazy)) = self.rest.next_if(|(_, c)| *c == '?') {
                    self.out.push(lazy);
                }
            }
            repeated = repeats;
            match c {
                '*' | '+' | '?' | '{' => {}
                '\\' => self.escape(at)?,
                '[' => self.class(at)?,
                '(' => self.group(at)?,
                // It closes nothing and so stands for itself, as in RE2.
                ']' | '}' => self.literal(c),
                other => self.out.push(other),
            }
        }
        Ok(())
    }

    fn literal(&mut self, c: char) {
        self.out
            .push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }

    /// `{n}`, `{n,}` or `{n,m}`; any other brace stands for itself.
    fn braces(&mut self, at: usize) -> Result<bool, String> {
        let inner = &self.pattern[at + 1..];
        let Some((counts, _)) = inner
            .split_once('}')
            .filter(|(counts, _)| is_repeat(counts))
        else {
            self.literal('{');
            return Ok(false);
        };
        let too_many = |count: &str| !count.is_empty() && !small(count);
        if counts.split(',').any(too_many) {
            return Err(format!("{{{counts}}} repeats more than {MAX_REPEAT} times"));
        }
        self.out.push_str(&self.pattern[at..at + counts.len() + 2]);
        self.skip_to(at + counts.len() + 2);
        Ok(true)
    }

    fn skip_to(&mut self, end: usize) {
        while self.rest.next_if(|(at, _)| *at < end).is_some() {}
    }

    /// Outside of a class.
    fn escape(&mut self, at: usize) -> Result<(), String> {
        let Some((_, c)) = self.rest.next() else {
            return Err("a backslash at the end".to_owned());
        };
        match c {
            'Q' => {
                let inner = &self.pattern[at + 2..];
                let end = inner.find("\\E").unwrap_or(inner.len());
                self.out.push_str(&regex::escape(&inner[..end]));
                self.skip_to((at + 2 + end + 2).min(self.pattern.len()));
            }
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => self.out.push_str(perl_class(c)),
            'b' | 'B' => {
                self.out
                    .push_str(if c == 'b' { "(?-u:\\b)" } else { r"\B" });
            }
            _ => self.plain_escape(c)?,
        }
        Ok(())
    }

    /// What means the same within and outside of a class.
    fn plain_escape(&mut self, c: char) -> Result<(), String> {
        match c {
            '0'..='7' => self.octal(c)?,
            'x' | 'p' | 'P' | 'A' | 'z' | 'a' | 'f' | 'n' | 'r' | 't' | 'v' => {
                self.out.push('\\');
                self.out.push(c);
                // What it escapes is read whole, so that its braces are not taken for others.
                if let Some((open, _)) = self.rest.next_if(|(_, c)| {
                    *c == '{' && "xpP".contains(self.out.chars().last().unwrap_or(' '))
                }) {
                    let inner = &self.pattern[open..];
                    let end = inner.find('}').map_or(inner.len(), |end| end + 1);
                    self.out.push_str(&inner[..end]);
                    self.skip_to(open + end);
                }
            }
            c if c.is_ascii_punctuation() => self.literal(c),
            other => return Err(format!("the escape \\{other} is not known")),
        }
        Ok(())
    }

    /// `\0`, `\12`: one digit alone would be a reference back, which nobody has.
    fn octal(&mut self, first: char) -> Result<(), String> {
        let digit = |c: char| c.to_digit(8);
        let mut value = digit(first).unwrap_or_default();
        let mut digits = 1;
        while digits < 3
            && let Some((_, next)) = self.rest.next_if(|(_, c)| digit(*c).is_some())
        {
            value = value * 8 + digit(next).unwrap_or_default();
            digits += 1;
        }
        if digits == 1 && first != '0' {
            return Err(format!("\\{first} refers back, which is not known"));
        }
        self.out.push_str(&format!("\\x{{{value:x}}}"));
        Ok(())
    }

    /// `[..]`: in it an opening bracket and doubled signs stand for themselves.
    fn class(&mut self, at: usize) -> Result<(), String> {
        self.out.push('[');
        if self.rest.next_if(|(_, c)| *c == '^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        while let Some((here, c)) = self.rest.next() {
            match c {
                ']' if !first => {
                    self.out.push(']');
                    return Ok(());
                }
                ']' => self.out.push_str("\\]"),
                '[' => match named_class(&self.pattern[here..]) {
                    Some(name) => {
                        self.out.push_str(name);
                        self.skip_to(here + name.len());
                    }
                    None => self.out.push_str("\\["),
                },
                '&' | '~' => self.literal(c),
                '\\' => {
                    let Some((_, c)) = self.rest.next() else {
                        return Err("a backslash at the end".to_owned());
                    };
                    match c {
                        'd' | 'D' | 's' | 'S' | 'w' | 'W' => self.out.push_str(perl_class(c)),
                        _ => self.plain_escape(c)?,
                    }
                }
                other => self.out.push(other),
            }
            first = false;
        }
        Err(format!("the class {:?} does not end", &self.pattern[at..]))
    }

    /// `(`, and of what begins with `(?` only what RE2 has.
    fn group(&mut self, at: usize) -> Result<(), String> {
        self.out.push('(');
        let Some(kind) = self.pattern[at + 1..].strip_prefix('?') else {
            return Ok(());
        };
        let flags = kind.find([':', ')']).map_or("", |end| &kind[..end]);
        let known = |c: char| "imsU-".contains(c);
        if kind.starts_with("P<")
            || kind.starts_with('<')
            || flags.chars().all(known) && !kind.is_empty()
        {
            self.out.push('?');
            self.skip_to(at + 2);
            return Ok(());
        }
        Err(format!("the group (?{kind} is not known"))
    }
}

/// Whether this stands between the braces of a repetition.
fn is_repeat(counts: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match counts.split_once(',') {
        None => number(counts),
        Some((least, "")) => number(least),
        Some((least, most)) => number(least) && number(most),
    }
}

fn small(count: &str) -> bool {
    count.parse::<u32>().is_ok_and(|count| count <= MAX_REPEAT)
}

/// ASCII only.
fn perl_class(c: char) -> &'static str {
    match c {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        'w' => "[0-9A-Za-z_]",
        _ => "[^0-9A-Za-z_]",
    }
}

/// `[:alpha:]` at the beginning of `text`.
fn named_class(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("[:")?;
    let end = inner.find(":]")?;
    let name = inner[..end].trim_start_matches('^');
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    is_name.then(|| &text[..end + 4])
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;

    #[test]
    fn matches_what_re2_matches() {
        let table: &[(&str, &[&str], &[&str])] = &[
            (r"\Q/a.b\E", &["/a.b"], &["/axb"]),
            (r"\Qa.*", &["a.*"], &["ab"]),
            ("a{,2}", &["a{,2}"], &["aa"]),
            ("a{2}", &["aa"], &["a"]),
            ("a}", &["a}"], &["a"]),
            ("a]", &["a]"], &["a"]),
            ("[a-z&&b]", &["c", "&"], &["&&"]),
            ("[[a]", &["[", "a"], &["b"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[^]a]", &["b"], &["]"]),
            ("[[:alpha:]_]+", &["a_"], &["1"]),
            (r"[\d.]+", &["1.2"], &["a"]),
            (r"\<a\>", &["<a>"], &["a"]),
            (r"\d", &["7"], &["\u{663}"]),
            (r"\w+", &["a_1"], &["\u{e9}"]),
            (r"\0101", &["\u{8}1"], &["A"]),
            (r"\101", &["A"], &["101"]),
            (r"\x{41}\x41", &["AA"], &["x"]),
            (r"\p{Greek}\pL", &["\u{3b1}b"], &["ab"]),
            ("a+?b*?", &["aab"], &["b"]),
            ("(?i:a)(?P<n>b)(?<m>c)", &["Abc"], &["ABC"]),
            ("a|b", &["a", "b"], &["ab"]),
            ("", &[""], &["a"]),
        ];
        for (text, yes, no) in table {
            let pattern = Pattern::new(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            for input in *yes {
                assert!(pattern.is_match(input), "{text} {input}");
            }
            for input in *no {
                assert!(!pattern.is_match(input), "{text} {input}");
            }
        }
    }

    #[test]
    fn refuses_what_re2_refuses() {
        let table = [
            "(",
            ")",
            ")(",
            "[",
            "a**",
            "a++",
            "a*{2}",
            "a{1001}",
            "a{2,1}",
            "*a",
            r"\1",
            r"(a)\1",
            r"\C",
            r"\Z",
            r"\u0041",
            r"\",
            "(?x)a",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?P=n)",
            "(?",
            "(?P<n>a)(?P<n>b)",
            "[b-a]",
            r"[\",
            r"\p{Nobody}",
        ];
        for text in table {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}

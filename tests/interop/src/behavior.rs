//! The standard `rpc-behavior` metadata: a caller tells servers how to misbehave.
//!
//! A list, separated by commas, taken in order: `sleep-S`, `keep-open`, `error-code-N`,
//! `succeed-on-retry-attempt-N`; each may be meant for one server alone, by `hostname=ID ` before it.

use std::time::Duration;

use tonic::Code;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Wait.
    Sleep(Duration),
    /// Never answer.
    KeepOpen,
    /// Answer with this status, which may be `OK`: then as if nothing more was asked.
    Answer(Code),
    /// Answer as usual if so many attempts came before; else go on.
    SucceedOnAttempt(u64),
}

/// What a list asks of the server called `id`.
///
/// # Errors
/// A word that means nothing.
pub fn steps(list: &str, id: &str) -> Result<Vec<Step>, String> {
    let words = list.split(',').map(str::trim).filter(|w| !w.is_empty());
    words
        .filter_map(|word| step(word, id).transpose())
        .collect()
}

fn step(word: &str, id: &str) -> Result<Option<Step>, String> {
    let word = match word.strip_prefix("hostname=") {
        None => word,
        Some(rest) => match rest.split_once(' ') {
            Some((host, word)) if host == id => word.trim(),
            Some(_) => return Ok(None),
            None => return Err(format!("rpc-behavior: {word:?} says no behaviour")),
        },
    };
    let number = |prefix: &str| word.strip_prefix(prefix)?.parse::<u32>().ok();
    let step = if word == "keep-open" {
        Step::KeepOpen
    } else if let Some(seconds) = number("sleep-") {
        Step::Sleep(Duration::from_secs(seconds.into()))
    } else if let Some(code) = number("error-code-").and_then(|code| i32::try_from(code).ok()) {
        Step::Answer(Code::from_i32(code))
    } else if let Some(attempt) = number("succeed-on-retry-attempt-") {
        Step::SucceedOnAttempt(attempt.into())
    } else {
        return Err(format!("rpc-behavior: {word:?} means nothing"));
    };
    Ok(Some(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_taken_in_order() {
        let list = "succeed-on-retry-attempt-3, sleep-2,error-code-14,keep-open,";
        let wanted = [
            Step::SucceedOnAttempt(3),
            Step::Sleep(Duration::from_secs(2)),
            Step::Answer(Code::Unavailable),
            Step::KeepOpen,
        ];
        assert_eq!(steps(list, "a").unwrap(), wanted);
    }

    #[test]
    fn what_is_meant_for_others_is_left_to_them() {
        let list = "hostname=b keep-open,hostname=a error-code-2,error-code-3";
        let both = [
            Step::Answer(Code::Unknown),
            Step::Answer(Code::InvalidArgument),
        ];
        assert_eq!(steps(list, "a").unwrap(), both);
        assert_eq!(steps(list, "c").unwrap(), both[1..]);
    }

    #[test]
    fn words_without_meaning_are_told() {
        for word in ["dance", "sleep-", "sleep-x", "hostname=a", "error-code--1"] {
            assert!(steps(word, "a").unwrap_err().contains(word), "{word}");
        }
    }
}

//! "Did you mean …?": the names closest to one that does not exist.
//!
//! Pure.

/// How many names a hint shows at most.
const SHOWN: usize = 3;

/// Longer names are no slips of the pen, and comparing them would cost whoever is asked too much.
const LONGEST: usize = 256;

/// How many names of about the right length are compared at most.
const COMPARED: usize = 2_000;

/// The names nearest to `wanted`, best first: at most three, none further off than a third of its
/// length (at least two edits).
#[must_use]
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let length = wanted.chars().take(LONGEST + 1).count();
    if length > LONGEST {
        return Vec::new();
    }
    let limit = (length / 3).max(2);
    let mut close: Vec<(usize, &str)> = names
        .into_iter()
        .filter(|name| name.chars().count().abs_diff(length) <= limit)
        .take(COMPARED)
        .filter_map(|name| Some((distance(wanted, name, limit)?, name)))
        .collect();
    close.sort_unstable();
    close.dedup();
    close.truncate(SHOWN);
    close.into_iter().map(|(_, name)| name).collect()
}

/// `; did you mean "a" or "b"?`, or nothing when no name is near.
#[must_use]
pub fn hint<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = nearest(wanted, names)
        .into_iter()
        .map(|name| format!("{name:?}"))
        .collect();
    if quoted.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", quoted.join(" or "))
    }
}

/// Insertions, deletions, replacements and swaps of neighbours between two names. A swap counts
/// once because it is the commonest slip of all. `None` as soon as it is certain that they are
/// more than `limit`.
fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        // A swap reaches back two rows, so one good row may still be ahead of a bad one.
        let hopeless = |row: &[usize]| row.iter().all(|&edits| edits > limit);
        if hopeless(&row) && hopeless(&above) {
            return None;
        }
        before = std::mem::replace(&mut above, row);
    }
    Some(above[b.len()]).filter(|&edits| edits <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        let cases = [
            ("", "", 0),
            ("greeter", "greeter", 0),
            ("greter", "greeter", 1),
            ("greeetr", "greeter", 1),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
        ];
        for (a, b, expected) in cases {
            for limit in expected..expected + 3 {
                assert_eq!(distance(a, b, limit), Some(expected), "{a:?} to {b:?}");
                assert_eq!(distance(b, a, limit), Some(expected), "{b:?} to {a:?}");
            }
            for limit in 0..expected {
                assert_eq!(distance(a, b, limit), None, "{a:?} to {b:?}");
            }
        }
    }

    #[test]
    fn the_nearest_name_comes_first_and_far_ones_not_at_all() {
        let names = ["greeters", "greeter", "payments"];
        assert_eq!(nearest("greter", names), ["greeter", "greeters"]);
        assert_eq!(
            hint("greter", names),
            "; did you mean \"greeter\" or \"greeters\"?"
        );
        assert_eq!(hint("unrelated-name", names), "");
    }

    #[test]
    fn a_very_long_name_is_near_to_nothing() {
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(nearest(&long, [long.as_str()]), [""; 0]);
    }
}

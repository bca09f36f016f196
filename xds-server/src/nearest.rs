//! "Did you mean …?": the names closest to one that does not exist.
//!
//! Pure.

/// How many names a hint shows at most.
const SHOWN: usize = 3;

/// The names nearest to `wanted`, best first: at most three, none further off than a third of its
/// length (at least two edits).
#[must_use]
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (wanted.chars().count() / 3).max(2);
    let mut close: Vec<(usize, &str)> = names
        .into_iter()
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, _)| *distance <= limit)
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
/// once because it is the commonest slip of all.
fn distance(a: &str, b: &str) -> usize {
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
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
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
            assert_eq!(distance(a, b), expected, "{a:?} to {b:?}");
            assert_eq!(distance(b, a), expected, "{b:?} to {a:?}");
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
}

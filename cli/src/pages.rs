//! The pages of `docs/errors`, built in.

use sidestep_proto::code::Code;

/// The page of a code.
pub(crate) fn find(code: Code) -> Option<&'static str> {
    let name = code.to_string();
    let found = PAGES.iter().find(|(page, _)| *page == name);
    found.map(|(_, text)| *text)
}

macro_rules! pages {
    ($($name:literal)*) => {
        /// By code; a test compares this list with the codes and the files.
        const PAGES: &[(&str, &str)] = &[$((
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors/", $name, ".md")),
        ),)*];
    };
}

pages! {
}

#[cfg(test)]
mod tests {
    use sidestep_proto::code;

    use super::*;

    #[test]
    fn each_code_has_a_page_built_in_and_no_page_is_without_a_code() {
        let codes: Vec<String> = code::ALL.iter().map(|e| e.code.to_string()).collect();
        let pages: Vec<&str> = PAGES.iter().map(|(name, _)| *name).collect();
        assert_eq!(pages, codes);
        assert!(code::ALL.iter().all(|entry| find(entry.code).is_some()));
    }
}

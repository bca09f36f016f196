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
    "SX0101"
    "SX0102"
    "SX0103"
    "SX0104"
    "SX0105"
    "SX0106"
    "SX0107"
    "SX0108"
    "SX0109"
    "SX0110"
    "SX0111"
    "SX0112"
    "SX0113"
    "SX0114"
    "SX0115"
    "SX0201"
    "SX0202"
    "SX0203"
    "SX0204"
    "SX0205"
    "SX0206"
    "SX0207"
    "SX0208"
    "SX0209"
    "SX0210"
    "SX0211"
    "SX0212"
    "SX0213"
    "SX0214"
    "SX0215"
    "SX0216"
    "SX0217"
    "SX0218"
    "SX0219"
    "SX0220"
    "SX0221"
    "SX0222"
    "SX0223"
    "SX0224"
    "SX0225"
    "SX0226"
    "SX0227"
    "SX0228"
    "SX0229"
    "SX0230"
    "SX0231"
    "SX0232"
    "SX0233"
    "SX0234"
    "SX0235"
    "SX0236"
    "SX0237"
    "SX0301"
    "SX0302"
    "SX0303"
    "SX0304"
    "SX0305"
    "SX0306"
    "SX0307"
    "SX0308"
    "SX0309"
    "SX0310"
    "SX0311"
    "SX0312"
    "SX0313"
    "SX0314"
    "SX0315"
    "SX0316"
    "SX0401"
    "SX0402"
    "SX0403"
    "SX0404"
    "SX0405"
    "SX0407"
    "SX0408"
    "SX0409"
    "SX0410"
    "SX0411"
    "SX0412"
    "SX0413"
    "SX0414"
    "SX0415"
    "SX0416"
    "SX0417"
    "SX0418"
    "SX0419"
    "SX0430"
    "SX0431"
    "SX0432"
    "SX0433"
    "SX0434"
    "SX0435"
    "SX0501"
    "SX0502"
    "SX0503"
    "SX0504"
    "SX0505"
    "SX0506"
    "SX0507"
    "SX0509"
    "SX0510"
    "SX0511"
    "SX0512"
    "SX0513"
    "SX0514"
    "SX0515"
    "SX0516"
    "SX0517"
    "SX0518"
    "SX0519"
    "SX0601"
    "SX0602"
    "SX0603"
    "SX0604"
    "SX0605"
    "SX0606"
    "SX0607"
    "SX0608"
    "SX0609"
    "SX0610"
    "SX0701"
    "SX0702"
    "SX0703"
    "SX0704"
    "SX0705"
    "SX0706"
    "SX0707"
    "SX0801"
    "SX0802"
    "SX0803"
    "SX0804"
    "SX0805"
    "SX0806"
    "SX0807"
    "SX0808"
    "SX0809"
    "SX0810"
    "SX0811"
    "SX0812"
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

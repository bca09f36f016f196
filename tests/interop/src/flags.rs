//! Flags and events of the interop programs, as their public contract has them: `--name value` or
//! `--name=value`, one JSON object per line on standard output, exit status 2 for a bad call.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use sidestep::Mesh;
use tonic::Code;

/// One flag of a program.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// Whether it takes no value.
    pub boolean: bool,
    /// Whether what it asks for exists.
    pub supported: bool,
}

/// A flag with a value.
#[must_use]
pub const fn value(name: &'static str) -> Flag {
    Flag {
        name,
        boolean: false,
        supported: true,
    }
}

/// A flag without one.
#[must_use]
pub const fn boolean(name: &'static str) -> Flag {
    Flag {
        name,
        boolean: true,
        supported: true,
    }
}

impl Flag {
    /// The same flag, for something that does not exist yet.
    #[must_use]
    pub const fn later(mut self) -> Self {
        self.supported = false;
        self
    }
}

/// Flags of the interop client.
pub const CLIENT: [Flag; 17] = [
    value("target"),
    value("n"),
    value("duration-ms"),
    value("concurrency"),
    value("qps"),
    value("method"),
    value("stream-messages"),
    value("payload-size"),
    value("timeout-ms"),
    boolean("wait-for-ready"),
    value("creds"),
    value("metadata"),
    boolean("cookie-jar").later(),
    boolean("print-metadata"),
    value("admin"),
    value("linger-ms"),
    value("authority"),
];

/// Flags of the interop server.
pub const SERVER: [Flag; 20] = [
    value("listen"),
    value("id"),
    value("mode"),
    boolean("xds-creds"),
    value("fail-first"),
    value("fail-attempts-below"),
    value("fail-percent"),
    value("fail-code"),
    value("delay-ms"),
    value("orca").later(),
    value("orca-cpu").later(),
    value("orca-app").later(),
    value("orca-qps").later(),
    value("orca-eps").later(),
    value("orca-named").later(),
    value("orca-oob-ms").later(),
    boolean("log-rpcs").later(),
    value("admin"),
    boolean("not-serving").later(),
    boolean("help").later(),
];

/// The flags of a call.
#[derive(Debug, Default)]
pub struct Flags(BTreeMap<&'static str, Vec<String>>);

impl Flags {
    /// Parses the arguments by the list of flags that the program has.
    ///
    /// # Errors
    /// An unknown flag, a missing value, or a flag for something that does not exist yet.
    pub fn parse(
        known: &[Flag],
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let flag = name
                .strip_prefix("--")
                .and_then(|name| known.iter().find(|f| f.name == name));
            let flag = flag.ok_or_else(|| format!("unknown flag {name}"))?;
            if !flag.supported {
                return Err(format!("not supported yet: --{}", flag.name));
            }
            let value = match (flag.boolean, inline) {
                (true, None) => "true".to_owned(),
                (true, Some(_)) => return Err(format!("--{} takes no value", flag.name)),
                (false, Some(value)) => value,
                (false, None) => arguments
                    .next()
                    .ok_or_else(|| format!("--{} needs a value", flag.name))?,
            };
            flags.0.entry(flag.name).or_default().push(value);
        }
        Ok(flags)
    }

    /// The last value of a flag.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str)
    }

    /// Every value of a flag that may be repeated.
    #[must_use]
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a flag without a value is there.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The parsed value of a flag, or its default.
    ///
    /// # Errors
    /// The value does not parse.
    pub fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        self.text(name).map_or(Ok(default), |text| {
            text.parse()
                .map_err(|_| format!("--{name}: {text:?} is not a number in range"))
        })
    }
}

/// Prints an event, with the time, and flushes it.
pub fn say(event: &str, fields: Value) {
    let mut object = Map::new();
    object.insert("event".to_owned(), json!(event));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    object.insert("t_ms".to_owned(), json!(now.as_secs_f64() * 1000.0));
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    let mut out = std::io::stdout().lock();
    // Whoever listens may be gone; the program goes on to its end.
    let _ = writeln!(out, "{}", Value::Object(object)).and_then(|()| out.flush());
}

/// The status of this upper-case name.
#[must_use]
pub fn code_named(name: &str) -> Option<Code> {
    (0..=16)
        .map(Code::from)
        .find(|code| upper_case(*code) == name)
}

/// `DeadlineExceeded` as the contract writes it: `DEADLINE_EXCEEDED`.
#[must_use]
pub fn upper_case(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Opens the admin endpoint if `--admin` asks for it, wherever: the flag says so in so many words.
/// Answers with its real address.
///
/// # Errors
/// It cannot be opened.
pub fn open_admin(mesh: &Mesh, flags: &Flags) -> Result<Option<String>, String> {
    let wanted = flags.text("admin");
    let opened = wanted.map(|address| mesh.admin_beyond_loopback(address));
    let real = opened.transpose().map_err(|error| error.to_string())?;
    Ok(real.map(|address| address.to_string()))
}

/// Ends the program as the contract has it for bad flags and ports that cannot be bound.
pub fn refuse(message: &str) -> ! {
    say("error", json!({ "message": message }));
    std::process::exit(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Flag; 4] = [
        value("n"),
        boolean("quiet"),
        value("header"),
        value("orca").later(),
    ];

    fn parse(arguments: &[&str]) -> Result<Flags, String> {
        Flags::parse(&KNOWN, arguments.iter().map(ToString::to_string))
    }

    #[test]
    fn both_spellings_and_repetition() {
        let flags = parse(&["--n", "3", "--header=a:b=c", "--header", "d:e", "--quiet"]).unwrap();
        assert_eq!(flags.number("n", 1), Ok(3));
        assert_eq!(flags.all("header"), ["a:b=c", "d:e"]);
        assert!(flags.is_set("quiet"));
        assert_eq!(parse(&[]).unwrap().number("n", 10), Ok(10));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (arguments, expected) in [
            (&["--what"][..], "unknown flag --what"),
            (&["n"], "unknown flag n"),
            (&["--n"], "--n needs a value"),
            (&["--quiet=1"], "--quiet takes no value"),
            (&["--orca", "both"], "not supported yet: --orca"),
        ] {
            assert_eq!(parse(arguments).unwrap_err(), expected);
        }
        assert!(parse(&["--n", "x"]).unwrap().number("n", 1u8).is_err());
    }

    /// Everything of the contract that the programs do not do yet.
    #[test]
    fn what_is_not_there_yet() {
        let missing = |flags: &[Flag]| -> Vec<_> {
            let later = flags.iter().filter(|flag| !flag.supported);
            later.map(|flag| flag.name).collect()
        };
        assert_eq!(missing(&CLIENT), ["cookie-jar"]);
        let server = [
            "orca",
            "orca-cpu",
            "orca-app",
            "orca-qps",
            "orca-eps",
            "orca-named",
            "orca-oob-ms",
            "log-rpcs",
            "not-serving",
            "help",
        ];
        assert_eq!(missing(&SERVER), server);
    }

    #[test]
    fn statuses_have_upper_case_names() {
        assert_eq!(upper_case(Code::DeadlineExceeded), "DEADLINE_EXCEEDED");
        assert_eq!(code_named("OK"), Some(Code::Ok));
        assert_eq!(code_named("Ok"), None);
    }
}

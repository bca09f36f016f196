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
    /// Whether it takes a value.
    pub takes: Takes,
    /// Whether what it asks for exists.
    pub supported: bool,
}

/// What stands after a flag's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A value, in whichever spelling.
    Value,
    /// Nothing.
    Nothing,
    /// Nothing, or `=true` or `=false`.
    Switch,
}

/// A flag with a value.
#[must_use]
pub const fn value(name: &'static str) -> Flag {
    Flag {
        name,
        takes: Takes::Value,
        supported: true,
    }
}

/// A flag without one.
#[must_use]
pub const fn boolean(name: &'static str) -> Flag {
    Flag {
        name,
        takes: Takes::Nothing,
        supported: true,
    }
}

/// A flag that may be told whether it is meant: `--name`, `--name=true`, `--name=false`, as the public
/// interop programs have them.
#[must_use]
pub const fn switch(name: &'static str) -> Flag {
    Flag {
        name,
        takes: Takes::Switch,
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
pub const CLIENT: [Flag; 18] = [
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
    boolean("cookie-jar"),
    boolean("print-metadata"),
    value("admin"),
    value("linger-ms"),
    value("authority"),
    boolean("help"),
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
    value("orca"),
    value("orca-cpu"),
    value("orca-app"),
    value("orca-qps"),
    value("orca-eps"),
    value("orca-named"),
    value("orca-oob-ms"),
    boolean("log-rpcs"),
    value("admin"),
    boolean("not-serving"),
    boolean("help"),
];

/// The flags of a call.
#[derive(Debug, Default)]
pub struct Flags(BTreeMap<&'static str, Vec<String>>);

impl Flags {
    /// The flags of this process. `--help` prints what there is to standard error and ends it.
    ///
    /// # Errors
    /// As [`Flags::parse`].
    pub fn of_process(known: &[Flag]) -> Result<Self, String> {
        let flags = Self::parse(known, std::env::args().skip(1))?;
        if flags.is_set("help") {
            for flag in known {
                let value = if flag.takes == Takes::Value {
                    " VALUE"
                } else {
                    ""
                };
                eprintln!("--{}{value}", flag.name);
            }
            std::process::exit(0);
        }
        Ok(flags)
    }

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
            let value = match (flag.takes, inline) {
                (Takes::Nothing | Takes::Switch, None) => "true".to_owned(),
                (Takes::Nothing, Some(_)) => return Err(format!("--{} takes no value", flag.name)),
                (Takes::Switch, Some(value)) => match value.to_ascii_lowercase().as_str() {
                    "true" | "1" => "true".to_owned(),
                    "false" | "0" => "false".to_owned(),
                    _ => {
                        return Err(format!(
                            "--{}: {value:?} is neither true nor false",
                            flag.name
                        ));
                    }
                },
                (Takes::Value, Some(value)) => value,
                (Takes::Value, None) => arguments
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

    /// Whether a flag without a value is there, and not taken back by `=false`.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.text(name) == Some("true")
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

    const KNOWN: [Flag; 5] = [
        value("n"),
        boolean("quiet"),
        switch("use_tls"),
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
        assert!(!parse(&["--use_tls=false"]).unwrap().is_set("use_tls"));
        assert!(parse(&["--use_tls"]).unwrap().is_set("use_tls"));
        assert_eq!(parse(&[]).unwrap().number("n", 10), Ok(10));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (arguments, expected) in [
            (&["--what"][..], "unknown flag --what"),
            (&["n"], "unknown flag n"),
            (&["--n"], "--n needs a value"),
            (&["--quiet=1"], "--quiet takes no value"),
            (
                &["--use_tls=perhaps"],
                "--use_tls: \"perhaps\" is neither true nor false",
            ),
            (&["--orca", "both"], "not supported yet: --orca"),
        ] {
            assert_eq!(parse(arguments).unwrap_err(), expected);
        }
        assert!(parse(&["--n", "x"]).unwrap().number("n", 1u8).is_err());
    }

    /// Everything of the contract that the programs do not do yet.
    #[test]
    fn what_is_not_there_yet() {
        let all = CLIENT.iter().chain(&SERVER);
        let missing: Vec<_> = all.filter(|f| !f.supported).map(|f| f.name).collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn statuses_have_upper_case_names() {
        assert_eq!(upper_case(Code::DeadlineExceeded), "DEADLINE_EXCEEDED");
        assert_eq!(code_named("OK"), Some(Code::Ok));
        assert_eq!(code_named("Ok"), None);
    }
}

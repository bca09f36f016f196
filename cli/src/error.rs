//! How errors look: code and text on one line, what to do on the next.
//!
//! ```text
//! error[SX0205]: mesh.yaml:16:9: services.greeter.routes[1]: unknown key "timout"
//!   hint: did you mean "timeout"?
//! ```

use std::fmt;

use serde_json::{Value, json};
use sidestep::{AdminError, BuildError, CallError, ServerError};
use sidestep_cli::bootstrap::RequestError;
use sidestep_cli::certificates::CertificateError;
use sidestep_proto::bootstrap::{BootstrapError, NameError};
use sidestep_proto::code::{self, Code};
use sidestep_server::model::Diagnostic;
use sidestep_server::socket::InvalidListenAddress;
use sidestep_server::{SourceError, StartError};

use crate::output::Style;

/// An error of the command line's own, with its code.
#[derive(Debug)]
pub(crate) struct Coded {
    code: Code,
    text: String,
}

impl Coded {
    /// An error of this kind.
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Coded {}

/// Code, text and hint as people read them.
pub(crate) fn shown(style: Style, code: Code, text: &str, hint: &str) -> String {
    let head = style.bad(&format!("error[{code}]:"));
    format!("{head} {text}\n  {} {hint}", style.strong("hint:"))
}

/// An error that ends the command.
pub(crate) fn ended(style: Style, error: &anyhow::Error) -> String {
    let code = error.chain().find_map(code_of);
    let code = code.unwrap_or(code::COMMAND_FAILED);
    let text = format!("{error:#}");
    // Errors of the libraries end in code and hint themselves.
    let own = format!(" [{code}]");
    let text = text.split(own.as_str()).next().unwrap_or_default();
    shown(style, code, text, code.hint())
}

/// What clap says about a wrong command line, under our code or that of the value at fault.
pub(crate) fn usage(style: Style, rendered: &str) -> String {
    let valued = code::ALL.iter().map(|entry| entry.code);
    let valued = valued.map(|code| (code, format!(" [{code}]")));
    let mut valued = valued.filter(|(_, mark)| rendered.contains(mark));
    let (code, text) = match valued.next() {
        Some((code, mark)) => (code, rendered.replacen(&mark, "", 1)),
        None => (code::WRONG_USAGE, rendered.to_owned()),
    };
    let text = text.trim_end();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    shown(style, code, text, code.hint())
}

/// A finding in a mesh file.
pub(crate) fn finding(style: Style, diagnostic: &Diagnostic) -> String {
    let (code, text, hint) = (diagnostic.code, diagnostic.text(), diagnostic.hint());
    if diagnostic.is_error() {
        return shown(style, code, &text, hint);
    }
    let head = style.odd(&format!("warning[{code}]:"));
    format!("{head} {text}\n  {} {hint}", style.strong("hint:"))
}

/// Findings as JSON, each with its hint.
pub(crate) fn findings<'a>(diagnostics: impl IntoIterator<Item = &'a Diagnostic>) -> Value {
    let each = diagnostics.into_iter().map(|diagnostic| {
        let mut value = json!(diagnostic);
        value["hint"] = json!(diagnostic.hint());
        value
    });
    each.collect()
}

fn code_of(error: &(dyn std::error::Error + 'static)) -> Option<Code> {
    let is = error.downcast_ref::<Coded>().map(|e| e.code);
    is.or_else(|| error.downcast_ref().map(StartError::code))
        .or_else(|| error.downcast_ref().map(SourceError::code))
        .or_else(|| error.downcast_ref().map(InvalidListenAddress::code))
        .or_else(|| error.downcast_ref().map(BootstrapError::code))
        .or_else(|| error.downcast_ref().map(NameError::code))
        .or_else(|| error.downcast_ref().map(BuildError::code))
        .or_else(|| error.downcast_ref().map(ServerError::code))
        .or_else(|| error.downcast_ref().map(CallError::code))
        .or_else(|| error.downcast_ref().map(AdminError::code))
        .or_else(|| error.downcast_ref().map(RequestError::code))
        .or_else(|| error.downcast_ref().map(CertificateError::code))
}

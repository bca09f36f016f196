//! What is wrong (or odd) in a mesh file, and exactly where.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use sidestep_proto::code::Code;

/// A place in a file. Lines and columns count from 1; columns count characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file as it was named by the user.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The mesh cannot be used.
    Error,
    /// The mesh can be used, but probably does not say what was meant.
    Warning,
}

/// One finding in a mesh file.
///
/// Shown as
/// `mesh.yaml:12:5: services.greeter: unknown key "timout"; did you mean "timeout"? [SX0205]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Diagnostic {
    /// The number of this kind of finding.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// The file as it was named by the user.
    pub file: String,
    /// Line from 1; 0 when the finding is about the file as a whole.
    pub line: u32,
    /// Column from 1; 0 when the finding is about the file as a whole.
    pub column: u32,
    /// The place in the file's structure: `services.greeter.routes[0].to`; empty at the top.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, if there is something to suggest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(
        code: Code,
        severity: Severity,
        place: &Place,
        path: &str,
        message: String,
    ) -> Self {
        Self {
            code,
            severity,
            file: place.file.to_string(),
            line: place.line,
            column: place.column,
            path: path.to_owned(),
            message,
            help: None,
        }
    }

    /// A finding about a file as a whole.
    pub(crate) fn whole_file(code: Code, file: &str, message: String) -> Self {
        Self {
            code,
            severity: Severity::Error,
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            message,
            help: None,
        }
    }

    /// Whether the mesh cannot be used because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// What to do about it: the suggestion of `help`, else what helps in general.
    #[must_use]
    pub fn hint(&self) -> &str {
        self.help.as_deref().unwrap_or_else(|| self.code.hint())
    }

    /// Where and what, without severity, code and suggestion.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.place(), self.fault())
    }

    fn place(&self) -> String {
        match self.line {
            0 => format!("{}: ", self.file),
            line => format!("{}:{line}:{}: ", self.file, self.column),
        }
    }

    fn fault(&self) -> String {
        match self.path.as_str() {
            "" => self.message.clone(),
            path => format!("{path}: {}", self.message),
        }
    }

    /// Text and suggestion: what the tests of texts compare.
    #[cfg(test)]
    pub(crate) fn uncoded(&self) -> String {
        let text = self.to_string();
        let code = format!(" [{}]", self.code);
        text.strip_suffix(&code).expect("ends so").to_owned()
    }

    pub(crate) fn help(&mut self, help: impl Into<String>) {
        let help = help.into();
        self.help = (!help.is_empty()).then_some(help);
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.fault())?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        write!(f, " [{}]", self.code)
    }
}

/// Collects findings, so that a reader can go on after the first.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Adds an error; the answer is for adding help to it.
    pub(crate) fn error(
        &mut self,
        code: Code,
        place: &Place,
        path: &str,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(code, Severity::Error, place, path, message.into())
    }

    /// Adds a warning; the answer is for adding help to it.
    pub(crate) fn warning(
        &mut self,
        code: Code,
        place: &Place,
        path: &str,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(code, Severity::Warning, place, path, message.into())
    }

    fn add(
        &mut self,
        code: Code,
        severity: Severity,
        place: &Place,
        path: &str,
        message: String,
    ) -> &mut Diagnostic {
        let at = self.diagnostics.len();
        self.diagnostics
            .push(Diagnostic::new(code, severity, place, path, message));
        &mut self.diagnostics[at]
    }

    /// Warnings if there is no error, else everything; in the order of files and lines.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.diagnostics
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        if self.diagnostics.iter().any(Diagnostic::is_error) {
            Err(self.diagnostics)
        } else {
            Ok(self.diagnostics)
        }
    }
}

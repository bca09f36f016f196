//! What is wrong (or odd) in a mesh file, and exactly where.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

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
/// Shown as `mesh.yaml:12:5: services.greeter: unknown key "timout"; did you mean "timeout"?`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Diagnostic {
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
    pub(crate) fn new(severity: Severity, place: &Place, path: &str, message: String) -> Self {
        Self {
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
    pub(crate) fn whole_file(file: &str, message: String) -> Self {
        Self {
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

    pub(crate) fn help(&mut self, help: impl Into<String>) {
        let help = help.into();
        self.help = (!help.is_empty()).then_some(help);
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
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
        place: &Place,
        path: &str,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Error, place, path, message.into())
    }

    /// Adds a warning; the answer is for adding help to it.
    pub(crate) fn warning(
        &mut self,
        place: &Place,
        path: &str,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Warning, place, path, message.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        place: &Place,
        path: &str,
        message: String,
    ) -> &mut Diagnostic {
        let at = self.diagnostics.len();
        self.diagnostics
            .push(Diagnostic::new(severity, place, path, message));
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

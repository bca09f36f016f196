//! A line for each call, with Envoy's operators and response flags.
//!
//! ```text
//!   call ends ─> Record ─> bounded queue ─> one thread: format, write      (never waited for)
//! ```
//!
//! Opt-in, by [`MeshBuilder::access_log`](crate::MeshBuilder::access_log) or by the environment
//! variable `SIDESTEP_ACCESS_LOG`. A call of a channel and a call of a server each give one line,
//! when they have ended: their words are those of an outbound and an inbound sidecar.

mod clock;
mod flags;
mod format;
mod json;
mod operator;
mod queue;
mod record;
mod sink;

use sidestep_proto::code::{self, Code};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

pub use flags::Flags;
pub use format::{DEFAULT_FORMAT, FormatError, FormatFault, Place, operators};
pub use json::DEFAULT_JSON;
pub use record::{Record, Side};

use format::{Fact, Headers, Reader, Template};
use json::Node;
use record::Scheme;
pub(crate) use sink::AccessLogSink;

/// Set to `text`, `json`, a format, or `off`, it turns the access log on without a code change.
pub const VARIABLE: &str = "SIDESTEP_ACCESS_LOG";
/// A file to append to instead of standard output, for [`VARIABLE`].
pub const PATH_VARIABLE: &str = "SIDESTEP_ACCESS_LOG_PATH";

/// Lines that may wait for the sink.
const ROOM: usize = 8192;

/// What is written of each call, and where to.
///
/// ```
/// use sidestep::telemetry::access_log::AccessLog;
///
/// let log = AccessLog::text("%START_TIME% %REQ(:PATH)% %GRPC_STATUS% %RESPONSE_FLAGS%")?
///     .to_stderr();
/// let unknown = AccessLog::text("%RESPONSE_FLAG%").unwrap_err();
/// assert!(unknown.to_string().contains("did you mean %RESPONSE_FLAGS%"));
/// # Ok::<(), sidestep::telemetry::access_log::FormatError>(())
/// ```
pub struct AccessLog {
    format: Format,
    sink: Box<dyn Write + Send>,
    room: usize,
    only: Option<Side>,
}

#[derive(Debug, Clone)]
struct Format {
    shape: Shape,
    headers: Headers,
}

#[derive(Debug, Clone)]
enum Shape {
    Text(Template),
    Json(Node),
}

impl AccessLog {
    /// Lines by a format of Envoy's operators; a newline is added if the format has none at its
    /// end. Written to standard output unless told otherwise.
    ///
    /// # Errors
    /// An operator is unknown, has no meaning here, or is misused: the error says where.
    pub fn text(format: &str) -> Result<Self, FormatError> {
        Self::read_text(format, &facts).map(Self::new)
    }

    /// Lines by Envoy's default format, [`DEFAULT_FORMAT`].
    #[must_use]
    pub fn default_text() -> Self {
        Self::text(DEFAULT_FORMAT).expect("a test reads it")
    }

    /// JSON objects by a JSON object whose texts hold operators; nesting is allowed. A text that
    /// is one operator and nothing else keeps its type, and is `null` if not set.
    ///
    /// # Errors
    /// As for [`AccessLog::text`], and if the format is no JSON object.
    pub fn json(format: &str) -> Result<Self, FormatError> {
        Self::read_json(format, &facts).map(Self::new)
    }

    /// JSON objects with the keys of [`DEFAULT_JSON`].
    #[must_use]
    pub fn default_json() -> Self {
        Self::json(DEFAULT_JSON).expect("a test reads it")
    }

    fn new(format: Format) -> Self {
        Self {
            format,
            sink: Box::new(io::stdout()),
            room: ROOM,
            only: None,
        }
    }

    /// What the environment asks for: `SIDESTEP_ACCESS_LOG` is `text` or `json` for the default
    /// formats, `off` or empty for none, else a format of one's own (JSON if it begins with `{`).
    /// `SIDESTEP_ACCESS_LOG_PATH` names a file to append to.
    ///
    /// # Errors
    /// The format is not valid, or the file cannot be opened.
    pub fn from_lookup(
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, AccessLogError> {
        let Some(wanted) = lookup(VARIABLE) else {
            return Ok(None);
        };
        let wanted = wanted.to_string_lossy();
        let log = match wanted.trim() {
            "" | "off" => return Ok(None),
            "text" => Self::default_text(),
            "json" => Self::default_json(),
            format if format.starts_with('{') => Self::json(format)?,
            _ => Self::text(&wanted)?,
        };
        Ok(Some(match lookup(PATH_VARIABLE) {
            Some(path) => log.to_file(path.as_ref())?,
            None => log,
        }))
    }

    /// Writes to standard output, as is the default.
    #[must_use]
    pub fn to_stdout(self) -> Self {
        self.to_writer(io::stdout())
    }

    /// Writes to standard error.
    #[must_use]
    pub fn to_stderr(self) -> Self {
        self.to_writer(io::stderr())
    }

    /// Appends to a file, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn to_file(self, path: &Path) -> Result<Self, AccessLogError> {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path);
        let file = file.map_err(|source| AccessLogError::File {
            path: path.display().to_string(),
            source,
        })?;
        Ok(self.to_writer(io::BufWriter::new(file)))
    }

    /// Writes each line with one `write_all`, and flushes when no further line waits. All of it
    /// happens on a thread of the log's own, which a slow writer may hold up.
    #[must_use]
    pub fn to_writer(mut self, writer: impl Write + Send + 'static) -> Self {
        self.sink = Box::new(writer);
        self
    }

    /// Calls a function with each line, on a thread of the log's own.
    #[must_use]
    pub fn to_callback(self, each: impl FnMut(&str) + Send + 'static) -> Self {
        self.to_writer(queue::Callback(each))
    }

    /// How many lines may wait for the sink before further ones are dropped and counted; 1 at
    /// least, 8192 by default.
    #[must_use]
    pub fn room(mut self, lines: usize) -> Self {
        self.room = lines;
        self
    }

    /// Only the calls of channels, or only those of servers. Both by default.
    #[must_use]
    pub fn only(mut self, side: Side) -> Self {
        self.only = Some(side);
        self
    }

    /// Starts the writer.
    pub(crate) fn start(self) -> Result<Arc<Log>, AccessLogError> {
        let Format { shape, headers } = self.format;
        let render = move |record: &Record, out: &mut String| shape.write(record, out);
        let queue = queue::Queue::start(self.room, render, self.sink);
        Ok(Arc::new(Log {
            headers,
            only: self.only,
            queue: queue.map_err(AccessLogError::Thread)?,
        }))
    }

    fn read_text(format: &str, facts: format::Facts<'_>) -> Result<Format, FormatError> {
        let mut reader = Reader::new(facts);
        let mut template = reader.template(format, "")?;
        template.end_line();
        Ok(Format {
            shape: Shape::Text(template),
            headers: reader.headers,
        })
    }

    fn read_json(format: &str, facts: format::Facts<'_>) -> Result<Format, FormatError> {
        let mut reader = Reader::new(facts);
        let node = Node::parse(format, &mut reader)?;
        Ok(Format {
            shape: Shape::Json(node),
            headers: reader.headers,
        })
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("format", &self.format)
            .field("room", &self.room)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

/// Why an access log cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessLogError {
    /// The format is not valid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The file cannot be opened.
    #[error("cannot open the access log {path}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start the thread of the access log")]
    Thread(#[source] io::Error),
}

impl AccessLogError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Format(_) => code::ACCESS_LOG_FORMAT,
            Self::File { .. } | Self::Thread(_) => code::ACCESS_LOG_FILE,
        }
    }
}

fn facts(fact: Fact<'_>) -> Option<String> {
    match fact {
        Fact::Variable(name) => std::env::var(name).ok(),
        Fact::HostName => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .or_else(|_| std::env::var("HOSTNAME"))
            .ok(),
    }
}

impl Shape {
    fn write(&self, record: &Record, out: &mut String) {
        match self {
            Self::Text(template) => template.write(record, out),
            Self::Json(node) => {
                out.push_str(&node.value(record).to_string());
                out.push('\n');
            }
        }
    }
}

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    headers: Headers,
    only: Option<Side>,
    queue: queue::Queue,
}

impl Log {
    /// Whether calls of this side are written.
    pub(crate) fn wants(&self, side: Side) -> bool {
        self.only.is_none_or(|only| only == side)
    }

    /// The headers that its format names.
    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Takes a call that has ended; never waits.
    pub(crate) fn push(&self, record: Box<Record>) {
        self.queue.push(record);
    }

    /// Lines that were not written because the sink was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }
}

#[cfg(test)]
mod tests;

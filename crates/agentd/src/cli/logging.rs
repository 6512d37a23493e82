//! Destinations of log events. A command of the command line logs only if `AGENTD_LOG` is set, and then to standard error:
//! by default, no log line mixes with the output of a user's command. The daemon always logs to its file.

use super::{failure::Failure, writer};
use agentd_core::escape;
use agentd_daemon::LogFile;
use std::{
    io::{self, Write},
    sync::Mutex,
};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The environment variable with the filter, in the syntax of [`EnvFilter`].
const VARIABLE: &str = "AGENTD_LOG";

/// The environment variable with the form of the log.
const FORMAT: &str = "AGENTD_LOG_FORMAT";

/// The daemon's filter if the variable is not set.
const DAEMON: &str = "info";

/// The form of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A part of the program's subscriber that does not log.
pub(crate) type SubscriberLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging to standard error if the variable is set, and passes what is measured to `measured`. Without `format`, the form
/// is that of the variable.
///
/// # Errors
/// If the filter or the form cannot be parsed.
pub(crate) fn to_stderr(format: Option<LogFormat>, measured: Option<SubscriberLayer>) -> Result<(), Failure> {
    let format = format.map_or_else(log_format, Ok)?;
    match filter()? {
        None if measured.is_none() => {}
        filter => start(filter, format, writer::Stderr, measured),
    }
    Ok(())
}

/// Starts logging to the daemon's log. Panics are also logged, because the daemon's standard error is `/dev/null`.
pub(crate) fn to_file(file: LogFile) {
    // The command that started the daemon has already rejected variables that cannot be parsed.
    let filter = filter().ok().flatten().unwrap_or_else(|| EnvFilter::new(DAEMON));
    start(Some(filter), log_format().unwrap_or_default(), file, None);
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "daemon panicked")));
}

fn filter() -> Result<Option<EnvFilter>, Failure> {
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.to_string_lossy();
    match EnvFilter::builder().parse(&text) {
        Ok(filter) => Ok(Some(filter)),
        Err(error) => Err(format!(
            "read {VARIABLE}: {}: {error} — set it to error, warn, info, debug or trace, or to a list such as \
             warn,agentd_daemon=debug",
            escape::name(&*text)
        )
        .into()),
    }
}

fn log_format() -> Result<LogFormat, Failure> {
    let Some(text) = std::env::var_os(FORMAT).filter(|text| !text.is_empty()) else { return Ok(LogFormat::default()) };
    let text = text.to_string_lossy();
    <LogFormat as clap::ValueEnum>::from_str(&text, false)
        .map_err(|_| format!("read {FORMAT}: {}: not a form of a log — set it to text or json", escape::name(&*text)).into())
}

fn start(filter: Option<EnvFilter>, format: LogFormat, to: impl Write + Send + 'static, measured: Option<SubscriberLayer>) {
    let log = filter.map(|filter| {
        let lines = fmt::layer().with_ansi(false).log_internal_errors(false).with_writer(Mutex::new(OneLine { to, format }));
        match format {
            LogFormat::Text => lines.with_filter(filter).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
        }
    });
    tracing_subscriber::registry().with(measured).with(log).init();
}

/// Escapes each record, because paths and errors in it may come from inside a sandbox. Each record is written by a single call.
struct OneLine<W> {
    to: W,
    format: LogFormat,
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = match self.format {
            LogFormat::Text => format!("{}\n", escape::text(text)),
            LogFormat::Json => format!("{}\n", escape::json(text)),
        };
        self.to.write_all(line.as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_with_control_characters_is_escaped_to_one_line() {
        let mut written = Vec::new();
        let record = "WARN remove x error=a\nERROR forged\x1b]0;title\x07\u{202e}\n";
        OneLine { to: &mut written, format: LogFormat::Text }.write_all(record.as_bytes()).unwrap();
        let expected = "WARN remove x error=a\\nERROR forged\\x1b]0;title\\x07\\u{202e}\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn json_record_with_control_characters_stays_one_line_of_json() {
        let mut written = Vec::new();
        let record = "{\"message\":\"a\\nERROR forged\\u001b]0;title\u{202e}\"}\n";
        OneLine { to: &mut written, format: LogFormat::Json }.write_all(record.as_bytes()).unwrap();
        let text = String::from_utf8(written).unwrap();
        assert!(text.lines().count() == 1 && text.is_ascii(), "{text}");
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["message"], "a\nERROR forged\u{1b}]0;title\u{202e}");
    }
}

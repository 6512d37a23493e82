//! Destinations of log events. A command of the command line logs only if `AGENTD_LOG` is set, and then to standard error:
//! by default, no log line mixes with the output of a user's command. The daemon always logs to its file.

use super::{failure::Failure, writer};
use agentd_core::escape;
use agentd_daemon::LogFile;
use std::{
    io::{self, Write},
    sync::Mutex,
};
use tracing_subscriber::EnvFilter;

/// The environment variable with the filter, in the syntax of [`EnvFilter`].
const VARIABLE: &str = "AGENTD_LOG";

/// The daemon's filter if the variable is not set.
const DAEMON: &str = "info";

/// Starts logging to standard error, if the variable is set.
///
/// # Errors
/// If the filter cannot be parsed.
pub(crate) fn to_stderr() -> Result<(), Failure> {
    if let Some(filter) = filter()? {
        start(filter, writer::Stderr);
    }
    Ok(())
}

/// Starts logging to the daemon's log. Panics are also logged, because the daemon's standard error is `/dev/null`.
pub(crate) fn to_file(file: LogFile) {
    // The command that started the daemon has already rejected a filter that cannot be parsed.
    start(filter().ok().flatten().unwrap_or_else(|| EnvFilter::new(DAEMON)), file);
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

fn start(filter: EnvFilter, to: impl Write + Send + 'static) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(Mutex::new(OneLine(to)))
        .init();
}

/// Escapes each record, because paths and errors in it may come from inside a sandbox. Each record is written by a single call.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let line = format!("{}\n", escape::text(text.strip_suffix('\n').unwrap_or(&text)));
        self.0.write_all(line.as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_with_control_characters_is_escaped_to_one_line() {
        let mut written = Vec::new();
        let record = "WARN remove x error=a\nERROR forged\x1b]0;title\x07\u{202e}\n";
        OneLine(&mut written).write_all(record.as_bytes()).unwrap();
        let expected = "WARN remove x error=a\\nERROR forged\\x1b]0;title\\x07\\u{202e}\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }
}

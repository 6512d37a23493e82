//! Logs failures that the caller ignores, and keeps the log out of forked processes.
//!
//! An unhandled failure may still matter to the reader of the log: a cgroup stays behind, or a client has disconnected.
//! [`LogFailure`] replaces `.ok()` on such a result and requires a description of the failed action:
//!
//! ```text
//! std::fs::remove_file(draft).or_warn("remove draft", &draft);
//! ```
//!
//! An object or an error may contain text from inside a sandbox. The program's subscriber escapes each record as a whole.
//!
//! [`measure`] has the spans and events from which a program derives metrics and traces.

pub mod measure;

use std::{
    fmt::{Debug, Display},
    panic::Location,
};

/// The target of these events. The field `at` of each event contains the source location.
const TARGET: &str = "agentd::ignored";

/// Logs the error of a result that the caller ignores, and returns the value as an `Option`.
pub trait LogFailure<T, E> {
    /// Logs the failure as a warning: a resource is left behind or lost, and an operator may have to act.
    fn or_warn(self, action: &str, object: impl Debug) -> Option<T>
    where
        E: Display;

    /// Logs the failure at debug level: it is expected, or its effect is handled elsewhere.
    fn or_debug(self, action: &str, object: impl Debug) -> Option<T>
    where
        E: Display;

    /// Logs at debug level that a message had no receiver. The message itself, which is the error of most channels, is not
    /// logged.
    fn or_unreceived(self, message: &str) -> Option<T>;
}

impl<T, E> LogFailure<T, E> for Result<T, E> {
    #[track_caller]
    fn or_warn(self, action: &str, object: impl Debug) -> Option<T>
    where
        E: Display,
    {
        let at = Location::caller();
        self.map_err(|error| tracing::warn!(target: TARGET, ?object, %error, %at, "failed: {action}")).ok()
    }

    #[track_caller]
    fn or_debug(self, action: &str, object: impl Debug) -> Option<T>
    where
        E: Display,
    {
        let at = Location::caller();
        self.map_err(|error| tracing::debug!(target: TARGET, ?object, %error, %at, "failed: {action}")).ok()
    }

    #[track_caller]
    fn or_unreceived(self, message: &str) -> Option<T> {
        let at = Location::caller();
        self.map_err(|_| tracing::debug!(target: TARGET, %at, "no receiver: {message}")).ok()
    }
}

/// Disables logging on this thread permanently. A forked process calls this function, because its copy of the log's descriptor
/// may soon refer to another file.
pub fn silence() {
    // Dropping the guard would enable logging again.
    std::mem::forget(tracing::dispatcher::set_default(&tracing::Dispatch::none()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(work: impl FnOnce()) -> String {
        let memory = Memory::default();
        let into = memory.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || into.clone());
        tracing::subscriber::with_default(subscriber.finish(), work);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn ignored_failure_is_logged_with_action_object_cause_and_place() {
        let gone = || Err::<(), _>(io::Error::from(io::ErrorKind::NotFound));
        let text = logged(|| {
            gone().or_warn("remove draft", "/a/b");
            gone().or_debug("read draft", "/c");
            Err::<(), _>(vec![0u8; 3]).or_unreceived("the outcome");
        });
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        assert_eq!(lines.len(), 3, "{text}");
        for (line, start) in lines.iter().zip([
            "WARN agentd::ignored: failed: remove draft object=\"/a/b\" error=entity not found at=",
            "DEBUG agentd::ignored: failed: read draft object=\"/c\" error=entity not found at=",
            "DEBUG agentd::ignored: no receiver: the outcome at=",
        ]) {
            assert!(line.starts_with(start) && line.contains("agentd-log/src/lib.rs:"), "{line}");
        }
    }

    #[test]
    fn success_is_not_logged_and_its_value_is_kept() {
        let text = logged(|| assert_eq!(Ok::<_, io::Error>(7).or_warn("read", "x"), Some(7)));
        assert_eq!(text, "");
    }

    #[test]
    fn silenced_thread_logs_nothing() {
        let text = logged(|| {
            silence();
            Err::<(), _>("cause").or_warn("remove", "x");
            tracing::error!("other");
        });
        assert_eq!(text, "");
    }
}

//! Values reported by a guest, as they are transferred and shown: errors, evidence and usage. Control characters in
//! texts are replaced by U+FFFD, because a terminal would interpret them. Figures are limited, so that they can be added.

use super::protocol::End;
use agentd_core::{ControlError, ControlReport, ControlStatus, Evidence, EvidenceResult, IsolationError, Usage};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The maximum processor time that is accepted. Reported times are added, and must not overflow.
const MAX_TIME: Duration = Duration::from_secs(u32::MAX as u64);

/// Returns the end of an exec with all figures in their valid range.
pub fn plausible(end: End) -> End {
    End {
        exit_code: end.exit_code.map(|code| code & 0xff),
        signal: end.signal.map(|signal| signal & 0x7f),
        usage: bounded(end.usage),
        ..end
    }
}

/// Returns usage with processor times limited to [`MAX_TIME`].
pub fn bounded(usage: Usage) -> Usage {
    Usage { cpu_user: usage.cpu_user.min(MAX_TIME), cpu_system: usage.cpu_system.min(MAX_TIME), ..usage }
}

/// An [`IsolationError`] in transfer. Program and path are left out, because the host knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// [`IsolationError::Control`].
    Control(ControlError),
    /// [`IsolationError::Invalid`].
    Invalid {
        /// The part of the request.
        what: String,
        /// The reason why that part is invalid.
        reason: String,
    },
    /// [`IsolationError::Spawn`].
    Spawn(i32),
    /// [`IsolationError::File`].
    File(i32),
    /// The sandbox in the guest, or a process that it needs, was lost ([`IsolationError::loss`]).
    Lost(String),
    /// Any other error, as text.
    Other(String),
}

/// The maximum length of a text in a failure, in bytes, so that a failure fits into a frame.
const TEXT: usize = 4 << 10;

/// Replaces control characters, which a terminal would interpret.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Replaces control characters in the texts of the reported controls.
pub fn sanitize_controls(controls: Vec<ControlReport>) -> Vec<ControlReport> {
    let sanitized = |ControlReport { control, status, detail }| {
        let status = match status {
            ControlStatus::Partial(what) => ControlStatus::Partial(printable(&what)),
            ControlStatus::Missing(error) => ControlStatus::Missing(error.map_texts(printable)),
            enforced => enforced,
        };
        ControlReport { control, status, detail: printable(&detail) }
    };
    controls.into_iter().map(sanitized).collect()
}

/// Replaces control characters in the texts of evidence, and shortens them to fit into a frame.
pub fn sanitize_evidence(evidence: Vec<Evidence>) -> Vec<Evidence> {
    let text = |text: &str| printable(text).chars().take(EVIDENCE).collect::<String>();
    let sanitized = |Evidence { claim, check, result, remedy }| {
        let result = match result {
            EvidenceResult::Held => EvidenceResult::Held,
            EvidenceResult::Broken(how) => EvidenceResult::Broken(text(&how)),
            EvidenceResult::NotTried(why) => EvidenceResult::NotTried(text(&why)),
        };
        Evidence { claim, check: text(&check), result, remedy: text(&remedy) }
    };
    evidence.into_iter().map(sanitized).collect()
}

/// The maximum length of a text in evidence, in characters.
const EVIDENCE: usize = 150;

fn short(mut text: String) -> String {
    if text.len() > TEXT {
        let end = (0..=TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

impl From<IsolationError> for Failure {
    fn from(error: IsolationError) -> Self {
        match error {
            IsolationError::Control(error) | IsolationError::GrantChanged(error) => {
                Self::Control(error.map_texts(|text| short(text.to_owned())))
            }
            IsolationError::Invalid { what, reason } => Self::Invalid { what: short(what), reason: short(reason) },
            IsolationError::Spawn { errno, .. } => Self::Spawn(errno),
            IsolationError::File { errno, .. } => Self::File(errno),
            other => match other.loss() {
                Some(cause) => Self::Lost(short(cause.to_owned())),
                None => Self::Other(short(other.to_string())),
            },
        }
    }
}

impl Failure {
    /// Converts back to an error, with control characters removed. `subject` is the program or path that the error concerns.
    pub fn into_error(self, subject: &str) -> IsolationError {
        match self {
            Self::Control(error) => error.map_texts(printable).into(),
            Self::Invalid { what, reason } => IsolationError::Invalid { what: printable(&what), reason: printable(&reason) },
            Self::Spawn(errno) => IsolationError::Spawn { program: subject.to_owned(), errno },
            Self::File(errno) => IsolationError::File { path: subject.to_owned(), errno },
            Self::Lost(cause) => IsolationError::SandboxGone(printable(&cause)),
            Self::Other(text) => IsolationError::Io {
                context: "the guest reported an error".to_owned(),
                source: std::io::Error::other(printable(&text)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            frame::{Frame, MAX_FROM_GUEST, encode},
            protocol::FromGuest,
        },
        *,
    };
    use agentd_core::{Control, EndReason};

    #[test]
    fn any_failure_fits_into_a_frame() {
        let long = "ä".repeat(MAX_FROM_GUEST);
        let failure = IsolationError::Control(ControlError::new(Control::Exec, long.clone(), None).remedy(long)).into();
        let mut to = Vec::new();
        encode(&Frame::Message(FromGuest::Failed { id: 1, failure }), MAX_FROM_GUEST, &mut to).unwrap();
    }

    #[test]
    fn reported_text_has_no_control_characters_and_usage_does_not_overflow() {
        let failure = Failure::Other("\x1b]0;title\x07 \u{9b}2J text\n".to_owned());
        assert_eq!(
            failure.into_error("").to_string(),
            "the guest reported an error: \u{fffd}]0;title\u{fffd} \u{fffd}2J text\u{fffd}"
        );
        let usage = Usage { cpu_user: Duration::MAX, cpu_system: Duration::MAX, ..Usage::default() };
        let end = plausible(End { reason: EndReason::Exited, exit_code: Some(-1), signal: Some(i32::MAX), usage });
        assert_eq!((end.exit_code, end.signal), (Some(255), Some(127)));
        assert!(end.usage.cpu_user + end.usage.cpu_system < Duration::MAX);
    }
}

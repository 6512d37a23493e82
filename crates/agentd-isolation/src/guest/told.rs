//! What a guest tells, on its way: errors, evidence and figures. What is shown to people is without what a terminal would obey, and what is
//! added up is within what can be.

use super::protocol::End;
use agentd_core::{Evidence, EvidenceResult, IsolationError, LayerError, LayerReport, LayerStatus, Usage};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// No processor time is longer, in seconds: what a guest tells is added up.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

impl End {
    /// As a guest tells it, within what can be.
    pub fn within_reason(self) -> Self {
        Self {
            exit_code: self.exit_code.map(|code| code & 0xff),
            signal: self.signal.map(|signal| signal & 0x7f),
            usage: within_reason(self.usage),
            ..self
        }
    }
}

/// Figures as a guest tells them, within what can be.
pub fn within_reason(usage: Usage) -> Usage {
    Usage { cpu_user: usage.cpu_user.min(LONGEST), cpu_system: usage.cpu_system.min(LONGEST), ..usage }
}

/// An [`IsolationError`] on its way. What the host knows itself — the program, the path — stays out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// [`IsolationError::Layer`].
    Layer(LayerError),
    /// [`IsolationError::Invalid`].
    Invalid {
        /// Which part of the request.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// [`IsolationError::Spawn`].
    Spawn(i32),
    /// [`IsolationError::File`].
    File(i32),
    /// [`IsolationError::Lost`].
    Lost(String),
    /// Any other, in words.
    Other(String),
}

/// The most bytes of a text in a failure: a frame takes it.
const TEXT: usize = 4 << 10;

/// A text without what a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Layers as a guest tells them.
pub fn told(layers: Vec<LayerReport>) -> Vec<LayerReport> {
    let told = |LayerReport { layer, status, detail }| {
        let status = match status {
            LayerStatus::Partial(what) => LayerStatus::Partial(printable(&what)),
            LayerStatus::Missing(error) => {
                LayerStatus::Missing(LayerError { call: printable(&error.call), remedy: printable(&error.remedy), ..error })
            }
            enforced => enforced,
        };
        LayerReport { layer, status, detail: printable(&detail) }
    };
    layers.into_iter().map(told).collect()
}

/// Evidence with its texts as they may be shown, and short enough for a frame.
pub fn shown(evidence: Vec<Evidence>) -> Vec<Evidence> {
    let text = |text: &str| printable(text).chars().take(EVIDENCE).collect::<String>();
    let shown = |Evidence { bit, check, result, remedy }| {
        let result = match result {
            EvidenceResult::Held => EvidenceResult::Held,
            EvidenceResult::Broken(how) => EvidenceResult::Broken(text(&how)),
            EvidenceResult::NotTried(why) => EvidenceResult::NotTried(text(&why)),
        };
        Evidence { bit, check: text(&check), result, remedy: text(&remedy) }
    };
    evidence.into_iter().map(shown).collect()
}

/// The most characters of a text in evidence.
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
            IsolationError::Layer(error) => {
                Self::Layer(LayerError { call: short(error.call), remedy: short(error.remedy), ..error })
            }
            IsolationError::Invalid { what, reason } => Self::Invalid { what: short(what), reason: short(reason) },
            IsolationError::Spawn { errno, .. } => Self::Spawn(errno),
            IsolationError::File { errno, .. } => Self::File(errno),
            IsolationError::Lost(why) => Self::Lost(short(why)),
            other => Self::Other(short(other.to_string())),
        }
    }
}

impl Failure {
    /// The error again; `subject` is the program or path that it is about. What a guest says is shown to people: no terminal obeys it.
    pub fn into_error(self, subject: &str) -> IsolationError {
        match self {
            Self::Layer(error) => LayerError { call: printable(&error.call), remedy: printable(&error.remedy), ..error }.into(),
            Self::Invalid { what, reason } => IsolationError::Invalid { what: printable(&what), reason: printable(&reason) },
            Self::Spawn(errno) => IsolationError::Spawn { program: subject.to_owned(), errno },
            Self::File(errno) => IsolationError::File { path: subject.to_owned(), errno },
            Self::Lost(why) => IsolationError::Lost(printable(&why)),
            Self::Other(said) => {
                IsolationError::Io { context: "the guest".to_owned(), source: std::io::Error::other(printable(&said)) }
            }
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
    use agentd_core::{EndReason, Layer};

    #[test]
    fn any_failure_fits_into_a_frame() {
        let long = "ä".repeat(MAX_FROM_GUEST);
        let failure = IsolationError::Layer(LayerError::new(Layer::Exec, long.clone(), None).remedy(long)).into();
        let mut to = Vec::new();
        encode(&Frame::Message(FromGuest::Failed { id: 1, failure }), MAX_FROM_GUEST, &mut to).unwrap();
    }

    #[test]
    fn what_a_guest_tells_is_neither_obeyed_by_a_terminal_nor_too_much_to_be_added_up() {
        let failure = Failure::Other("\x1b]0;title\x07 \u{9b}2J text\n".to_owned());
        assert_eq!(failure.into_error("").to_string(), "the guest: \u{fffd}]0;title\u{fffd} \u{fffd}2J text\u{fffd}");
        let usage = Usage { cpu_user: Duration::MAX, cpu_system: Duration::MAX, ..Usage::default() };
        let end = End { reason: EndReason::Exited, exit_code: Some(-1), signal: Some(i32::MAX), usage }.within_reason();
        assert_eq!((end.exit_code, end.signal), (Some(255), Some(127)));
        assert!(end.usage.cpu_user + end.usage.cpu_system < Duration::MAX);
    }
}

//! Shortens the texts of errors and reports, so that every message of a launcher or supervisor is within
//! [`MAX_EVENT`](protocol::MAX_EVENT). The texts contain paths of the plan. Only the size of a request limits the number and
//! length of these paths.

use crate::protocol;
use agentd_core::{ControlError, ControlReport, ControlStatus};

/// The total length up to which texts are kept, in bytes. The rest of a message is smaller than the remaining half.
const TOTAL: usize = protocol::MAX_EVENT / 2;

/// The length to which each text is cut if their total length is too large, in bytes.
const EACH: usize = 512;

/// Shortens an error.
pub fn error(mut error: ControlError) -> ControlError {
    shorten([Some(&mut error.call), error.remedy.as_mut()].into_iter().flatten());
    error
}

/// Shortens the reports of all controls.
pub fn controls(mut controls: Vec<ControlReport>) -> Vec<ControlReport> {
    shorten(controls.iter_mut().flat_map(|report| {
        let status = match &mut report.status {
            ControlStatus::Missing(error) => [Some(&mut error.call), error.remedy.as_mut()],
            ControlStatus::Partial(why) => [Some(why), None],
            _ => [None, None],
        };
        status.into_iter().flatten().chain([&mut report.detail])
    }));
    controls
}

fn shorten<'a>(texts: impl IntoIterator<Item = &'a mut String>) {
    let texts: Vec<&mut String> = texts.into_iter().collect();
    if texts.iter().map(|text| text.len()).sum::<usize>() <= TOTAL {
        return;
    }
    for text in texts.into_iter().filter(|text| text.len() > EACH) {
        text.truncate(text.floor_char_boundary(EACH));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, Report, VERSION, decode, encode};
    use agentd_core::Control;

    fn long(control: Control) -> ControlError {
        ControlError::new(control, "ä".repeat(1 << 20), Some(libc::EIO)).remedy("ö".repeat(1 << 20))
    }

    #[test]
    fn reports_with_long_texts_are_accepted_by_the_library() {
        let report = Report::Destroyed { id: 1, error: Some(error(long(Control::Cgroup))) };
        let frame = encode(&report, 0).unwrap();
        assert!(matches!(decode::<Report>(&frame, protocol::MAX_EVENT), Ok(Some(_))));
        let all =
            [ControlStatus::Enforced, ControlStatus::Partial("ü".repeat(1 << 20)), ControlStatus::Missing(long(Control::Idmap))];
        let all = all.map(|status| ControlReport { control: Control::Mounts, status, detail: "x".repeat(1 << 20) });
        for controls in [Ok(controls(vec![all; 4].concat())), Err(error(long(Control::Mounts)))] {
            let hello = Event::Hello { version: VERSION, controls, watches: Vec::new(), sockets: Vec::new(), owner: None };
            let frame = encode(&hello, 0).unwrap();
            assert!(matches!(decode::<Event>(&frame, protocol::MAX_EVENT), Ok(Some(_))));
        }
    }

    #[test]
    fn texts_within_the_limit_are_kept() {
        let short = ControlError::new(Control::Mounts, "x".repeat(4096), None);
        assert_eq!(error(short.clone()), short);
    }
}

//! Reads and checks what the kernel of a session reports about a cell.

use crate::frame::{FrameDecoder, MAX_FRAME};
use agentd_records::{ContentDigest, ContentHasher};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The maximum number of bytes of a cell's reports that are kept. The digest also covers the bytes that are not kept.
const MAX_KEPT: usize = 8 << 20;

/// The maximum number of displayed values that are kept of a cell.
const MAX_DISPLAYS: usize = 256;

/// The maximum nesting, and the maximum number of JSON values, of the forms of a cell. A form that exceeds one of them is not
/// kept, because its indented text could be many times as long.
const MAX_LEVELS: usize = 72;
const MAX_VALUES: usize = 300_000;

/// The forms of a value, by MIME type. Texts are not encoded, and images are in base64.
pub type Forms = Map<String, Value>;

/// The rule of the protocol that a kernel violated. Its session is lost, because its reports can no longer be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelViolation {
    /// The length of a frame is not a number, or above the limit.
    #[error("a frame does not begin with a length of at most {MAX_FRAME} bytes")]
    Length,
    /// The frame is not a report.
    #[error("a frame is not a report")]
    NoReport,
    /// The report belongs to another cell, or follows the end of the cell.
    #[error("a report concerns a cell that does not run")]
    OtherCell,
}

/// How a cell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellStatus {
    /// The cell was executed to its end.
    Ok,
    /// The cell ended with an error.
    Error,
    /// A signal ended the cell.
    Interrupted,
}

/// The end of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellEnd {
    /// How the cell ended.
    pub status: CellStatus,
    /// In Bash, the exit code of the cell's last command. In other languages, 1 after an error and otherwise 0.
    pub exit_code: u8,
}

/// An error that ended a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CellError {
    /// The name of the error's type.
    pub name: String,
    /// The message.
    pub value: String,
    /// The stack trace as text.
    pub traceback: String,
}

/// The reports of a cell. All values come from the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CellReport {
    /// The value of the last expression.
    pub value: Option<Forms>,
    /// The values that the cell has displayed.
    pub displays: Vec<Forms>,
    /// The number of values that were not kept, because there were too many or they were too long.
    pub omitted: u64,
    /// The error that ended the cell.
    pub error: Option<CellError>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
enum KernelReport {
    Value { cell: u32, data: Forms },
    Display { cell: u32, data: Forms },
    Error { cell: u32, name: String, value: String, traceback: String },
    Done { cell: u32, status: CellStatus, exit_code: u8 },
}

impl KernelReport {
    fn cell(&self) -> u32 {
        match self {
            Self::Value { cell, .. } | Self::Display { cell, .. } | Self::Error { cell, .. } | Self::Done { cell, .. } => *cell,
        }
    }
}

/// Reads the reports of a kernel about one cell.
#[derive(Default)]
pub struct CellReader {
    cell: u32,
    decoder: FrameDecoder,
    digest: ContentHasher,
    kept: usize,
    /// The number of JSON values of all forms so far.
    values: usize,
    report: CellReport,
    end: Option<CellEnd>,
}

impl CellReader {
    /// Returns a reader for the cell with this number, which the request names.
    pub fn new(cell: u32) -> Self {
        Self { cell, ..Self::default() }
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// [`KernelViolation`]. The reader must not be used afterwards, except by [`CellReader::finish`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), KernelViolation> {
        if self.end.is_some() && !bytes.is_empty() {
            return Err(KernelViolation::OtherCell);
        }
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.push(bytes);
        while let Some(frame) = decoder.decode()? {
            self.digest.update(frame);
            let report: KernelReport = serde_json::from_slice(frame).map_err(|_| KernelViolation::NoReport)?;
            if report.cell() != self.cell {
                return Err(KernelViolation::OtherCell);
            }
            self.add(report, frame.len());
            if self.end.is_some() && decoder.has_rest() {
                return Err(KernelViolation::OtherCell);
            }
        }
        self.decoder = decoder;
        Ok(())
    }

    fn add(&mut self, report: KernelReport, length: usize) {
        if let KernelReport::Done { status, exit_code, .. } = report {
            self.end = Some(CellEnd { status, exit_code });
            return;
        }
        let is_small = match &report {
            KernelReport::Value { data, .. } | KernelReport::Display { data, .. } => {
                self.values =
                    data.values().try_fold(self.values, |values, form| counted(form, MAX_LEVELS, values)).unwrap_or(MAX_VALUES);
                self.values < MAX_VALUES
            }
            _ => true,
        };
        if self.kept + length > MAX_KEPT || self.report.displays.len() >= MAX_DISPLAYS || !is_small {
            self.report.omitted += 1;
            return;
        }
        self.kept += length;
        match report {
            KernelReport::Value { data, .. } => self.report.value = Some(data),
            KernelReport::Display { data, .. } => self.report.displays.push(data),
            KernelReport::Error { name, value, traceback, .. } => self.report.error = Some(CellError { name, value, traceback }),
            KernelReport::Done { .. } => {}
        }
    }

    /// Returns the end of the cell, if the kernel has reported it.
    pub fn end(&self) -> Option<CellEnd> {
        self.end
    }

    /// Returns what the cell has reported, and the digest of all reports.
    pub fn finish(self) -> (CellReport, ContentDigest) {
        (self.report, self.digest.finish())
    }
}

/// Returns `before` plus the number of JSON values in `value`. `None` if the sum is too large, or `value` has more than `levels`
/// levels.
fn counted(value: &Value, levels: usize, before: usize) -> Option<usize> {
    let levels = levels.checked_sub(1)?;
    let before = Some(before + 1).filter(|number| *number < MAX_VALUES)?;
    match value {
        Value::Array(elements) => elements.iter().try_fold(before, |number, element| counted(element, levels, number)),
        Value::Object(members) => members.values().try_fold(before, |number, member| counted(member, levels, number)),
        _ => Some(before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(text: &str) -> Vec<u8> {
        format!("{}\n{text}", text.len()).into_bytes()
    }

    fn display(text: &str) -> Vec<u8> {
        frame(&format!(r#"{{"type":"display","cell":5,"data":{{"text/plain":"{text}"}}}}"#))
    }

    const DONE: &str = r#"{"type":"done","cell":5,"status":"error","exit_code":3}"#;

    #[test]
    fn reports_of_a_cell_are_kept_until_its_end() {
        let mut reader = CellReader::new(5);
        let error = r#"{"type":"error","cell":5,"name":"E","value":"v","traceback":"t"}"#;
        let value = r#"{"type":"value","cell":5,"data":{"image/png":"AA=="}}"#;
        let all = [display("a"), frame(value), frame(error), frame(DONE)].concat();
        for byte in &all[..all.len() - 1] {
            reader.receive(&[*byte]).unwrap();
            assert_eq!(reader.end(), None);
        }
        reader.receive(&all[all.len() - 1..]).unwrap();
        assert_eq!(reader.end(), Some(CellEnd { status: CellStatus::Error, exit_code: 3 }));
        let (report, digest) = reader.finish();
        assert_eq!((report.displays.len(), report.value.unwrap()["image/png"].as_str()), (1, Some("AA==")));
        assert_eq!(report.error.unwrap(), CellError { name: "E".into(), value: "v".into(), traceback: "t".into() });
        let bodies = [&display("a")[3..], value.as_bytes(), error.as_bytes(), DONE.as_bytes()].concat();
        assert_eq!(digest, ContentDigest::of(&bodies));
    }

    #[test]
    fn form_with_too_many_values_or_levels_is_omitted() {
        let kept = |form: &str| {
            let mut reader = CellReader::new(5);
            let text = format!(r#"{{"type":"display","cell":5,"data":{{"application/json":{form}}}}}"#);
            reader.receive(&frame(&text)).unwrap();
            let (report, _) = reader.finish();
            assert_eq!(report.displays.len() as u64 + report.omitted, 1);
            report.omitted == 0
        };
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(kept(&nested(MAX_LEVELS)) && !kept(&nested(MAX_LEVELS + 1)));
        let many = |number: usize| format!("[{}0]", "0,".repeat(number));
        assert!(kept(&many(MAX_VALUES - 10)) && !kept(&many(MAX_VALUES)));
    }

    #[test]
    fn kernel_that_lies_about_frames_is_a_violation() {
        let deep = format!(r#"{{"type":"value","cell":5,"data":{{"a":{}1{}}}}}"#, "[".repeat(1000), "]".repeat(1000));
        for (bytes, violation) in [
            (b"x".to_vec(), KernelViolation::Length),
            (b"99999999\n".to_vec(), KernelViolation::Length),
            (frame("{}"), KernelViolation::NoReport),
            (frame(&deep), KernelViolation::NoReport),
            (frame(r#"{"type":"done","cell":5,"status":"error","exit_code":300}"#), KernelViolation::NoReport),
            (frame(r#"{"type":"done","cell":5,"status":"ok","exit_code":0,"more":1}"#), KernelViolation::NoReport),
            (frame(&DONE.replace('5', "4")), KernelViolation::OtherCell),
            ([frame(DONE), frame(DONE)].concat(), KernelViolation::OtherCell),
            ([frame(DONE), b"1".to_vec()].concat(), KernelViolation::OtherCell),
        ] {
            assert_eq!(CellReader::new(5).receive(&bytes), Err(violation), "{bytes:?}");
        }
    }

    #[test]
    fn reports_beyond_the_limits_are_counted_and_digested() {
        let mut reader = CellReader::new(5);
        let mut digest = ContentHasher::default();
        for number in 0..1000 {
            let display = display(&format!("{number:03}"));
            digest.update(&display[3..]);
            reader.receive(&display).unwrap();
        }
        let (report, all) = reader.finish();
        assert_eq!((report.displays.len(), report.omitted), (MAX_DISPLAYS, 1000 - MAX_DISPLAYS as u64));
        assert_eq!(all, digest.finish());
        let mut reader = CellReader::new(5);
        let long = display(&"x".repeat(3 << 20));
        (0..4).for_each(|_| reader.receive(&long).unwrap());
        assert_eq!((reader.report.displays.len(), reader.report.omitted), (2, 2));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_have_one_result(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let all = [display("a"), bytes].concat();
            let at = at.min(all.len());
            let mut reader = CellReader::new(5);
            let whole = reader.receive(&all);
            let mut again = CellReader::new(5);
            let pieces = again.receive(&all[..at]).and_then(|()| again.receive(&all[at..]));
            prop_assert_eq!(whole, pieces);
        }
    }
}

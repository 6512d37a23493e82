//! Entry point of the fuzz target in `fuzz/`.

use crate::{cell::CellReader, frame::MAX_FRAME};

/// Reads reports about cell 1 at once and byte by byte. Returns the number of values that were kept.
///
/// # Errors
/// The invariant that is broken.
pub fn reports(bytes: &[u8]) -> Result<usize, String> {
    let mut whole = CellReader::new(1);
    let result = whole.receive(bytes);
    let mut single = CellReader::new(1);
    let again = bytes.iter().try_for_each(|byte| single.receive(&[*byte]));
    // The bytes behind an end are refused by the first of them, or by all together.
    if result != again || whole.end() != single.end() {
        return Err(format!("{result:?} at once, {again:?} byte by byte"));
    }
    let ((report, digest), (other, other_digest)) = (whole.finish(), single.finish());
    if report != other || digest != other_digest {
        return Err("the pieces changed the report".to_owned());
    }
    let length = serde_json::to_string(&report).map_err(|error| error.to_string())?.len();
    // A byte of a report may become six in another notation.
    if length > 6 * bytes.len().min(MAX_FRAME) + 256 {
        return Err(format!("{} bytes became {length}", bytes.len()));
    }
    Ok(report.displays.len() + usize::from(report.value.is_some()) + usize::from(report.error.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    #[test]
    fn seeds_are_accepted() {
        let bodies = [
            r#"{"type":"display","cell":1,"data":{"text/plain":"a","image/png":"AA=="}}"#,
            r#"{"type":"value","cell":1,"data":{"application/vnd.agentd.table+json":{"columns":["a"],"rows":[[1]]}}}"#,
            r#"{"type":"error","cell":1,"name":"E","value":"v","traceback":"t"}"#,
            r#"{"type":"done","cell":1,"status":"ok","exit_code":0}"#,
        ];
        let seed: String = bodies.iter().map(|body| format!("{}\n{body}", body.len())).collect();
        assert_eq!(reports(seed.as_bytes()), Ok(3));
        keep_seed("interpreter_reports", "cell", seed.as_bytes());
    }
}

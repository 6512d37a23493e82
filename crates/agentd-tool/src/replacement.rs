//! Turns edits into replacements of byte ranges. Pure: the content is read before, and written after.

use crate::{
    byte_string::ByteString,
    error::{ErrorCode, ToolError},
    limits::{EDITS, MAX_CONTENT},
    request::TextEdit,
};
use memchr::{memchr_iter, memmem};
use std::ops::Range;

/// The replacement of a range of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replacement<'a> {
    pub(crate) range: Range<usize>,
    pub(crate) new: &'a [u8],
}

/// Finds what each edit replaces in `content`. Returns the replacements in the order of the content; no two overlap.
///
/// # Errors
/// The first edit that does not match, matches more than once, is out of range, or overlaps another one.
pub(crate) fn plan<'a>(content: &[u8], edits: &'a [TextEdit]) -> Result<Vec<Replacement<'a>>, ToolError> {
    if edits.is_empty() || edits.len() > EDITS {
        let why = format!("edit: {} edits — send between 1 and {EDITS} edits", edits.len());
        return Err(ToolError::new(ErrorCode::Invalid, why));
    }
    let starts = line_starts(content);
    let mut plan = Vec::new();
    for (number, edit) in edits.iter().enumerate() {
        let failed = |code, why: &str| ToolError::new(code, format!("edit {} of {}: {why}", number + 1, edits.len()));
        match edit {
            TextEdit::Literal { old, new, all } => {
                literal(content, old, new, *all, &mut plan).map_err(|(code, why)| failed(code, &why))?
            }
            TextEdit::Lines { first, last, new } => {
                let range = lines(content, &starts, *first, *last).map_err(|(code, why)| failed(code, &why))?;
                plan.push(Replacement { range, new: new.as_bytes() });
            }
        }
    }
    // At one position, an insertion comes before a replacement.
    plan.sort_by_key(|replacement| (replacement.range.start, replacement.range.end));
    for pair in plan.windows(2) {
        let (before, after) = (&pair[0].range, &pair[1].range);
        if before.end > after.start || before == after {
            let line = starts.partition_point(|start| *start <= after.start);
            let why = format!("edit: two edits change line {line} at the same place — combine them to one edit");
            return Err(ToolError::new(ErrorCode::Overlap, why));
        }
    }
    Ok(plan)
}

/// Returns the length of the content after the replacements.
///
/// # Errors
/// [`ErrorCode::Limit`] if the content would be longer than [`MAX_CONTENT`].
pub(crate) fn length_after(content: &[u8], plan: &[Replacement<'_>]) -> Result<usize, ToolError> {
    let removed: usize = plan.iter().map(|replacement| replacement.range.len()).sum();
    let added = plan.iter().try_fold(0_usize, |sum, replacement| sum.checked_add(replacement.new.len()));
    let length =
        added.and_then(|added| (content.len() - removed).checked_add(added)).filter(|length| *length as u64 <= MAX_CONTENT);
    length.ok_or_else(|| {
        ToolError::new(ErrorCode::Limit, format!("edit: the new content is longer than {MAX_CONTENT} bytes — write less"))
    })
}

/// Carries out the replacements.
pub(crate) fn apply(content: &[u8], plan: &[Replacement<'_>], length: usize) -> Vec<u8> {
    let mut result = Vec::with_capacity(length);
    let mut from = 0;
    for replacement in plan {
        result.extend_from_slice(&content[from..replacement.range.start]);
        result.extend_from_slice(replacement.new);
        from = replacement.range.end;
    }
    result.extend_from_slice(&content[from..]);
    result
}

type Mismatch = (ErrorCode, String);

fn literal<'a>(
    content: &[u8],
    old: &ByteString,
    new: &'a ByteString,
    all: bool,
    plan: &mut Vec<Replacement<'a>>,
) -> Result<(), Mismatch> {
    let (old, new) = (old.as_bytes(), new.as_bytes());
    if old.is_empty() {
        return Err((ErrorCode::Invalid, "the text to replace is empty — insert by line numbers".to_owned()));
    }
    let replace = |at: usize| Replacement { range: at..at + old.len(), new };
    let Some(first) = memmem::find(content, old) else {
        return Err((ErrorCode::NoMatch, "the text to replace does not occur in the file — read the file again".to_owned()));
    };
    if all {
        plan.extend(memmem::find_iter(content, old).map(replace));
        return Ok(());
    }
    // Occurrences that overlap are ambiguous, too.
    if let Some(second) = memmem::find(&content[first + 1..], old) {
        let line = |at: usize| 1 + memchr_iter(b'\n', &content[..at]).count();
        let (first, second) = (line(first), line(first + 1 + second));
        let why = format!(
            "the text to replace occurs more than once, in the lines {first} and {second} — include more of the text around it, or \
             replace all occurrences"
        );
        return Err((ErrorCode::Ambiguous, why));
    }
    plan.push(replace(first));
    Ok(())
}

/// Returns the bytes of the lines from `first` to `last`.
fn lines(content: &[u8], starts: &[usize], first: u64, last: u64) -> Result<Range<usize>, Mismatch> {
    let count = starts.len();
    let number = |line: u64| usize::try_from(line).unwrap_or(usize::MAX);
    let (first, last) = (number(first), number(last));
    if first == 0 || last.saturating_add(1) < first {
        return Err((
            ErrorCode::Invalid,
            format!("lines {first} to {last} — count from 1, and end at line {first} - 1 or later"),
        ));
    }
    if last > count || first > count + 1 {
        return Err((
            ErrorCode::OutOfRange,
            format!("lines {first} to {last}: the file has {count} lines — read the file again"),
        ));
    }
    if first == count + 1 && !content.is_empty() && !content.ends_with(b"\n") {
        let why = format!("an insertion after line {count}, which has no line feed — replace line {count}");
        return Err((ErrorCode::OutOfRange, why));
    }
    let start = |line: usize| starts.get(line).copied().unwrap_or(content.len());
    Ok(start(first - 1)..start(last))
}

/// Returns the offset of each line.
fn line_starts(content: &[u8]) -> Vec<usize> {
    let mut starts: Vec<usize> = std::iter::once(0).chain(memchr_iter(b'\n', content).map(|at| at + 1)).collect();
    starts.pop_if(|start| *start == content.len());
    starts
}

#[cfg(test)]
#[path = "replacement_tests.rs"]
mod tests;

use super::*;
use proptest::prelude::*;

fn literal(old: &[u8], new: &[u8], all: bool) -> TextEdit {
    TextEdit::Literal { old: old.into(), new: new.into(), all }
}

fn lines(first: u64, last: u64, new: &[u8]) -> TextEdit {
    TextEdit::Lines { first, last, new: new.into() }
}

fn edited(content: &[u8], edits: &[TextEdit]) -> Result<Vec<u8>, ErrorCode> {
    let plan = plan(content, edits).map_err(|error| error.code)?;
    let length = length_after(content, &plan).map_err(|error| error.code)?;
    let result = apply(content, &plan, length);
    assert_eq!(result.len(), length);
    Ok(result)
}

#[test]
fn literal_text_is_no_pattern() {
    let content = b"a.*b $1 \\n [x] \0\xff";
    for text in [&b".*"[..], b"$1", b"\\n", b"[x]", b"\0\xff"] {
        let expected = content.to_vec();
        let at = memmem::find(&expected, text).unwrap();
        let expected = [&expected[..at], b"$0\\1", &expected[at + text.len()..]].concat();
        assert_eq!(edited(content, &[literal(text, b"$0\\1", false)]).unwrap(), expected);
    }
    assert_eq!(edited(b"aXb", &[literal(b"a.b", b"", false)]), Err(ErrorCode::NoMatch));
}

#[test]
fn text_that_occurs_more_than_once_is_ambiguous() {
    assert_eq!(edited(b"ab ab", &[literal(b"ab", b"c", false)]), Err(ErrorCode::Ambiguous));
    assert_eq!(edited(b"aaa", &[literal(b"aa", b"c", false)]), Err(ErrorCode::Ambiguous));
    assert_eq!(edited(b"ab ab", &[literal(b"ab", b"c", true)]).unwrap(), b"c c");
    assert_eq!(edited(b"aaa", &[literal(b"aa", b"c", true)]).unwrap(), b"ca");
}

#[test]
fn edits_refer_to_the_content_before_the_first_edit() {
    let edits = [literal(b"a", b"b", false), literal(b"b", b"a", false)];
    assert_eq!(edited(b"a b", &edits).unwrap(), b"b a");
    let edits = [lines(1, 1, b"x\ny\nz\n"), lines(3, 3, b""), literal(b"two", b"2", false)];
    assert_eq!(edited(b"one\ntwo\nthree\nfour", &edits).unwrap(), b"x\ny\nz\n2\nfour");
}

#[test]
fn lines_are_replaced_inserted_and_removed() {
    for (content, first, last, new, expected) in [
        (&b"a\nb\nc\n"[..], 2, 2, &b"x\n"[..], Ok(&b"a\nx\nc\n"[..])),
        (b"a\nb\nc\n", 2, 1, b"x\n", Ok(b"a\nx\nb\nc\n")),
        (b"a\nb\nc\n", 4, 3, b"x", Ok(b"a\nb\nc\nx")),
        (b"a\nb\nc\n", 1, 3, b"", Ok(b"")),
        (b"a\nb", 2, 2, b"x", Ok(b"a\nx")),
        (b"", 1, 0, b"x", Ok(b"x")),
        (b"a\nb", 3, 2, b"x", Err(ErrorCode::OutOfRange)),
        (b"a\n", 2, 2, b"x", Err(ErrorCode::OutOfRange)),
        (b"a\n", 3, 2, b"x", Err(ErrorCode::OutOfRange)),
        (b"", 1, 1, b"x", Err(ErrorCode::OutOfRange)),
        (b"a\n", 0, 1, b"x", Err(ErrorCode::Invalid)),
        (b"a\nb\nc\n", 3, 1, b"x", Err(ErrorCode::Invalid)),
        (b"a\n", u64::MAX, u64::MAX, b"x", Err(ErrorCode::OutOfRange)),
    ] {
        let result = edited(content, &[lines(first, last, new)]);
        assert_eq!(result, expected.map(<[u8]>::to_vec), "{first} {last}");
    }
}

#[test]
fn edits_of_the_same_bytes_are_refused() {
    for edits in [
        [literal(b"abc", b"", false), literal(b"bcd", b"", false)],
        [literal(b"abcd", b"", false), literal(b"bc", b"", false)],
        [literal(b"abc", b"x", false), literal(b"abc", b"x", false)],
        [lines(1, 0, b"x"), lines(1, 0, b"y")],
        [lines(1, 1, b"x"), literal(b"bc", b"", false)],
    ] {
        assert_eq!(edited(b"abcd", &edits), Err(ErrorCode::Overlap), "{edits:?}");
    }
    assert_eq!(edited(b"abcd", &[lines(1, 0, b"x"), literal(b"ab", b"y", false)]).unwrap(), b"xycd");
}

#[test]
fn request_without_edits_or_with_too_many_or_empty_text_is_refused() {
    assert_eq!(edited(b"a", &[]), Err(ErrorCode::Invalid));
    assert_eq!(edited(b"a", &vec![literal(b"a", b"b", true); EDITS + 1]), Err(ErrorCode::Invalid));
    assert_eq!(edited(b"a", &[literal(b"", b"b", true)]), Err(ErrorCode::Invalid));
    let large = vec![b'x'; 2 << 20];
    assert_eq!(edited(&[b'a'; 100], &[literal(b"a", &large, true)]), Err(ErrorCode::Limit));
}

proptest! {
    #[test]
    fn unique_literal_edit_equals_replacement_of_the_standard_library(
        content in "[abc\n]{0,30}", old in "[abc\n]{1,4}", new in "[abc\n]{0,4}", all in any::<bool>(),
    ) {
        let result = edited(content.as_bytes(), &[literal(old.as_bytes(), new.as_bytes(), all)]);
        let places = (0..content.len()).filter(|at| content[*at..].starts_with(&old)).count();
        match (places, all) {
            (0, _) => prop_assert_eq!(result, Err(ErrorCode::NoMatch)),
            (1, _) | (_, true) => prop_assert_eq!(result.unwrap(), content.replace(&old, &new).into_bytes()),
            _ => prop_assert_eq!(result, Err(ErrorCode::Ambiguous)),
        }
    }

    #[test]
    fn bytes_outside_the_replaced_ranges_are_kept(
        content in prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'\n', 0xff]), 0..40),
        ranges in prop::collection::vec((0..12_u64, 0..12_u64), 1..4),
    ) {
        let edits: Vec<_> = ranges.iter().map(|(first, last)| lines(*first, *last, b"NEW")).collect();
        let Ok(plan) = plan(&content, &edits) else { return Ok(()) };
        let length = length_after(&content, &plan).unwrap();
        let result = apply(&content, &plan, length);
        // Without the new texts, the result is the content without the ranges.
        let kept: Vec<u8> = (0..content.len())
            .filter(|at| !plan.iter().any(|replacement| replacement.range.contains(at)))
            .map(|at| content[at])
            .collect();
        let text = String::from_utf8_lossy(&result).replace("NEW", "");
        prop_assert_eq!(text, String::from_utf8_lossy(&kept).into_owned());
        prop_assert_eq!(result.len(), kept.len() + 3 * plan.len());
    }
}

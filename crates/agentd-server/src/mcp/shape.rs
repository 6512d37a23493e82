//! Cuts long results for a model: head and tail remain, with a mark where something is missing.

use serde_json::Value;

/// The longest text and the longest list in a result, in bytes.
const MAX_PART: usize = 12 << 10;

/// The longest result in bytes. A longer one, with many long parts, is left out as a whole.
const MAX_RESULT: usize = 48 << 10;

/// A result that fits a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shaped {
    /// The result; null if it is left out as a whole.
    pub value: Value,
    /// The parts that are not complete.
    pub cuts: Vec<Cut>,
}

/// A part of a result that is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// The part, as a JSON pointer into the result.
    pub pointer: String,
    /// The length of the whole text in bytes.
    pub bytes: usize,
    /// The number of bytes before the missing part.
    pub cursor: usize,
    /// The handle of the whole text, if it is kept.
    pub handle: Option<String>,
}

/// Returns a result without what exceeds the budget. `keep` stores a whole text, and returns its handle.
pub(super) fn shape(value: &Value, keep: &mut dyn FnMut(String) -> Option<String>) -> Shaped {
    let mut cuts = Vec::new();
    let shaped = part(value, String::new(), keep, &mut cuts);
    if length(&shaped) <= MAX_RESULT {
        return Shaped { value: shaped, cuts };
    }
    let whole = format!("{value:#}");
    let (bytes, handle) = (whole.len(), keep(whole));
    Shaped { value: Value::Null, cuts: vec![Cut { pointer: String::new(), bytes, cursor: 0, handle }] }
}

fn part(value: &Value, pointer: String, keep: &mut dyn FnMut(String) -> Option<String>, cuts: &mut Vec<Cut>) -> Value {
    match value {
        Value::String(text) if text.len() > MAX_PART => {
            let handle = keep(text.clone());
            let (head, tail) = ends(text);
            cuts.push(Cut { pointer, bytes: text.len(), cursor: head.len(), handle: handle.clone() });
            let missing = text.len() - head.len() - tail.len();
            Value::String(format!("{head}{}{tail}", mark(missing, head.len(), handle.as_deref())))
        }
        Value::Array(items) if length(value) > MAX_PART => {
            // One item a line, so that a part of the text is a list of whole items.
            let lines: Vec<String> = items.iter().map(Value::to_string).collect();
            let fits = |budget: usize, lines: &mut dyn Iterator<Item = &String>| {
                let mut used = 0usize;
                lines
                    .take_while(|line| {
                        used = used.saturating_add(line.len() + 1);
                        used <= budget
                    })
                    .count()
            };
            let head = fits(MAX_PART * 2 / 3, &mut lines.iter());
            let tail = fits(MAX_PART / 3, &mut lines[head..].iter().rev());
            let whole = lines.join("\n");
            let cursor = lines[..head].iter().map(|line| line.len() + 1).sum();
            let (bytes, handle) = (whole.len(), keep(whole));
            cuts.push(Cut { pointer, bytes, cursor, handle });
            Value::Array(items[..head].iter().chain(&items[items.len() - tail..]).cloned().collect())
        }
        Value::Object(members) => {
            let shaped = members.iter().map(|(name, member)| {
                let below = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                (name.clone(), part(member, below, keep, cuts))
            });
            Value::Object(shaped.collect())
        }
        other => other.clone(),
    }
}

/// Returns the first and the last part of a text. Both end at the end of a line, unless the lines are very long.
fn ends(text: &str) -> (&str, &str) {
    let head = &text[..text.floor_char_boundary(MAX_PART * 2 / 3)];
    let tail = &text[text.ceil_char_boundary(text.len() - MAX_PART / 3)..];
    let head = head.rfind('\n').filter(|end| *end > head.len() / 2).map_or(head, |end| &head[..=end]);
    let tail = tail.find('\n').filter(|end| *end < tail.len() / 2).map_or(tail, |end| &tail[end + 1..]);
    (head, tail)
}

fn mark(missing: usize, cursor: usize, handle: Option<&str>) -> String {
    let rest = match handle {
        Some(handle) => format!("output_read with handle \"{handle}\" and cursor {cursor} returns them"),
        None => "they were too long to be kept: request a smaller part".to_owned(),
    };
    format!("\n[agentd: {missing} bytes are missing here; {rest}]\n")
}

fn length(value: &Value) -> usize {
    value.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shaped(value: &Value) -> (Shaped, Vec<String>) {
        let mut kept = Vec::new();
        let shaped = shape(value, &mut |text| {
            kept.push(text);
            Some(format!("h{}", kept.len()))
        });
        (shaped, kept)
    }

    #[test]
    fn short_result_is_unchanged() {
        let value = json!({ "a": ["b", { "c": 1 }], "d": "e\n" });
        assert_eq!(shaped(&value), (Shaped { value, cuts: Vec::new() }, Vec::new()));
    }

    #[test]
    fn cut_text_has_head_tail_and_mark_and_is_kept_as_a_whole() {
        let text: String = (0..10_000).map(|line| format!("{line} é\n")).collect();
        let (Shaped { value, cuts }, kept) = shaped(&json!({ "out": { "text": text, "n": 1 } }));
        assert_eq!(kept, std::slice::from_ref(&text));
        let [cut] = cuts.as_slice() else { panic!("{cuts:?}") };
        assert_eq!((cut.pointer.as_str(), cut.bytes, cut.handle.as_deref()), ("/out/text", text.len(), Some("h1")));
        let shown = value["out"]["text"].as_str().unwrap();
        let (head, rest) = shown.split_once("\n[agentd: ").unwrap();
        let (_, tail) = rest.split_once("]\n").unwrap();
        assert!(text.starts_with(head) && text.ends_with(tail) && head.ends_with("é\n") && tail.ends_with("9999 é\n"));
        assert_eq!(cut.cursor, head.len());
        let missing: usize = rest.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(head.len() + missing + tail.len(), text.len());
        assert!(shown.len() < MAX_PART + 200);
    }

    #[test]
    fn long_list_keeps_its_first_and_last_items() {
        let items: Vec<_> = (0..5_000).map(|n| json!({ "path": format!("f{n}") })).collect();
        let (Shaped { value, cuts }, kept) = shaped(&json!({ "entries": items }));
        let entries = value["entries"].as_array().unwrap();
        assert_eq!((&entries[0], entries.last().unwrap()), (&items[0], &items[4_999]));
        assert!(entries.len() < items.len() && cuts[0].pointer == "/entries");
        let rest = &kept[0][cuts[0].cursor..];
        let next: Value = serde_json::from_str(rest.lines().next().unwrap()).unwrap();
        assert!(!entries.contains(&next) && items.contains(&next));
    }

    #[test]
    fn list_with_one_huge_item_is_kept_as_a_whole() {
        let (Shaped { value, cuts }, kept) = shaped(&json!({ "rows": ["x".repeat(100_000)] }));
        assert_eq!((value["rows"].as_array().unwrap().len(), cuts.len(), kept.len()), (0, 1, 1));
    }

    #[test]
    fn result_with_many_long_parts_is_left_out() {
        let members: serde_json::Map<_, _> = (0..100).map(|n| (n.to_string(), json!("x".repeat(1_000)))).collect();
        let (Shaped { value, cuts }, kept) = shaped(&Value::Object(members));
        assert_eq!((value, cuts[0].pointer.as_str(), kept.len()), (Value::Null, "", 1));
    }

    #[test]
    fn text_that_is_not_kept_says_so() {
        let shaped = shape(&json!("x".repeat(100_000)), &mut |_| None);
        assert!(shaped.value.as_str().unwrap().contains("too long to be kept"));
        assert_eq!(shaped.cuts[0].handle, None);
    }
}

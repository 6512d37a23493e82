//! Advice for a caller of a capability. The library advises users of `agentd run`, which has more options than a call.

use super::super::args::Cli;
use clap::CommandFactory as _;

/// The advice of a message whose options a call lacks.
const RUN: &str = "a call has no option for this; `agentd run` has one";

/// Returns a message without the options that `agentd call` lacks.
pub(super) fn of_call(message: &str) -> String {
    if !message.contains("--") {
        return message.to_owned();
    }
    let command = Cli::command();
    let call = command.find_subcommand("call");
    let known: Vec<&str> =
        call.into_iter().flat_map(clap::Command::get_arguments).filter_map(|option| option.get_long()).collect();
    let is_unknown = |text: &str| options(text).any(|option| !known.contains(&option));
    let (cause, advice) = message.split_once(" — ").unwrap_or((message, ""));
    let cause = without_notes(cause, is_unknown);
    if advice.is_empty() {
        return cause;
    }
    let advice = without_notes(advice, is_unknown);
    let kept: Vec<&str> = advice.split(", or ").filter(|one| !is_unknown(one)).collect();
    format!("{cause} — {}", if kept.is_empty() { RUN.to_owned() } else { kept.join(", or ") })
}

/// Returns the names of the options in a text.
fn options(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("--").map(|(at, _)| &text[at + 2..]);
    let names = starts.map(|rest| rest.split(|character: char| !character.is_ascii_alphanumeric() && character != '-').next());
    names.flatten().filter(|name| !name.is_empty())
}

/// Returns a text without the notes in parentheses that `is_unknown` accepts.
fn without_notes(text: &str, is_unknown: impl Fn(&str) -> bool) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (--") {
        let Some((note, following)) = after.split_once(')') else { break };
        kept.push_str(before);
        if !is_unknown(&format!("--{note}")) {
            kept.push_str(&format!(" (--{note})"));
        }
        rest = following;
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_options_of_a_call_are_advised() {
        for (message, expected) in [
            ("a: b — c", "a: b — c"),
            ("out of memory (--memory)", "out of memory (--memory)"),
            ("a — name another directory with --workspace", "a — name another directory with --workspace"),
            ("a: a link — name its target, or add --follow-links", "a: a link — name its target"),
            (
                "a — grant a smaller directory, or make large directories read-only (--ro)",
                "a — grant a smaller directory, or make large directories read-only",
            ),
            ("a — use --unprotect x", "a — a call has no option for this; `agentd run` has one"),
            ("a (--net-limit) — raise it", "a — raise it"),
            ("a (--memory, --pids) — b -- c", "a (--memory, --pids) — b -- c"),
        ] {
            assert_eq!(of_call(message), expected);
        }
    }
}

//! Finds the known name that is most similar to an unknown one.

use clap::error::{ContextKind, ContextValue, Error};
use std::ffi::OsString;

/// The maximum number of differences of a similar name.
const MAX_DISTANCE: usize = 3;

/// Returns the candidate with the fewest differences to `name`. At most a third of a candidate's letters may differ; otherwise
/// returns `None`.
pub(crate) fn nearest(name: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    let name = name.trim().to_lowercase();
    let near = candidates.into_iter().map(|candidate| (distance(&name, &candidate), candidate));
    near.filter(|(distance, candidate)| *distance <= MAX_DISTANCE.min(candidate.len() / 3)).min().map(|(_, candidate)| candidate)
}

/// Returns the subcommand of `command` whose name is most similar to `name`.
pub(crate) fn nearest_command(command: &clap::Command, name: &str) -> Option<String> {
    nearest(name, command.get_subcommands().filter(|known| !known.is_hide_set()).map(|known| known.get_name().to_owned()))
}

/// Adds the most similar subcommand to an error about an unknown one. clap's own measure finds none for short names ("rnu").
pub(crate) fn suggest_command(error: &mut Error, program: &clap::Command, args: impl Iterator<Item = OsString>) {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidSubcommand) else { return };
    let mut command = program;
    for known in args.map_while(|arg| arg.into_string().ok()).take_while(|arg| arg != unknown) {
        command = command.find_subcommand(known).unwrap_or(command);
    }
    if let Some(meant) = nearest_command(command, unknown) {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![meant]));
    }
}

/// Counts the letters to insert, remove, replace, or exchange with their neighbours (optimal string alignment distance).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_returns_similar_name_only() {
        let known = || ["auto", "host-direct", "linux-native", "container", "firecracker"].map(str::to_owned);
        for (name, meant) in [
            ("contaner", Some("container")),
            ("Linux-Natvie", Some("linux-native")),
            ("firecraker", Some("firecracker")),
            ("atuo", Some("auto")),
            ("docker", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(name, known()).as_deref(), meant, "{name}");
        }
    }
}

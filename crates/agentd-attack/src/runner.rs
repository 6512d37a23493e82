//! Runs checks, each in a child of its own: one that is killed by the sandbox is as good an answer as any.

use crate::{Check, Facts, Verdict, all, checks, sys};
use std::io::{Read, Write};

/// Seconds after which an attack is given up.
const PATIENCE: u32 = 10;

/// Runs the checks named in `args`, all of them when none is named, and prints a line for each:
/// name, `held`, `broken` or `not-tried`, and a text, separated by tabs.
pub fn main(args: impl Iterator<Item = String>) -> i32 {
    let (facts, names): (Vec<String>, Vec<String>) = args.partition(|a| a.contains('='));
    let facts = Facts::new(facts.iter().filter_map(|f| f.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())));
    let mut out = std::io::stdout().lock();
    let mut say = |name: &str, verdict: Verdict| {
        let (word, text) = match verdict {
            Verdict::Held => ("held", String::new()),
            Verdict::Broken(text) => ("broken", text),
            Verdict::NotTried(text) => ("not-tried", text),
        };
        // Nobody reads any more: there is nobody to tell.
        writeln!(out, "{name}\t{word}\t{}", text.replace(['\n', '\t'], " ")).ok();
    };
    for name in &names {
        if !all().any(|c| c.name == name) {
            say(name, Verdict::NotTried("there is no such check".to_owned()));
        }
    }
    for check in checks(&facts).filter(|c| names.is_empty() || names.iter().any(|n| n == c.name)) {
        say(check.name, run_apart(check, &facts));
    }
    0
}

/// Reads a line that [`main`] printed.
pub fn parse_line(line: &str) -> Option<(&str, Verdict)> {
    let mut fields = line.splitn(3, '\t');
    let (name, word, text) = (fields.next()?, fields.next()?, fields.next().unwrap_or_default().to_owned());
    let verdict = match word {
        "held" => Verdict::Held,
        "broken" => Verdict::Broken(text),
        "not-tried" => Verdict::NotTried(text),
        _ => return None,
    };
    Some((name, verdict))
}

fn run_apart(check: &Check, facts: &Facts) -> Verdict {
    let Ok((mut reader, mut writer)) = std::io::pipe() else { return Verdict::NotTried("pipe".to_owned()) };
    let ended = sys::in_child(PATIENCE, || {
        let (word, text) = match (check.run)(facts) {
            Verdict::Held => ("held", String::new()),
            Verdict::Broken(text) => ("broken", text),
            Verdict::NotTried(text) => ("not-tried", text),
        };
        // The parent takes silence for an attack that could not be tried.
        write!(writer, "x\t{word}\t{text}").ok();
    });
    drop(writer);
    let mut text = String::new();
    match ended {
        Ok(0) if reader.read_to_string(&mut text).is_ok() => {
            parse_line(&text).map_or_else(|| Verdict::NotTried("it said nothing".to_owned()), |(_, verdict)| verdict)
        }
        Ok(libc::SIGSYS) => Verdict::Held,
        Ok(signal) => Verdict::NotTried(format!("it ended by signal {signal}")),
        Err(error) => Verdict::NotTried(format!("fork: {error}")),
    }
}

//! Runs each check in its own child process, because the system call filter may kill the attacker. A check whose process
//! SIGSYS kills counts as held. If another signal kills the process, the attack proves nothing.

use crate::{
    all,
    check::{Check, Facts, Verdict},
    checks, sys,
};
use std::io::{Read, Write};

/// Seconds after which an attack is killed.
const TIMEOUT: u32 = 30;

/// Runs the checks named in `args`, or all checks if `args` names none. Prints one line for each: its name, `held`, `broken` or
/// `not-tried`, and a text, separated by tabs.
pub fn main(args: impl Iterator<Item = String>) -> i32 {
    let (facts, names): (Vec<String>, Vec<String>) = args.partition(|a| a.contains('='));
    let facts = Facts::new(facts.iter().filter_map(|f| f.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())));
    let mut out = std::io::stdout().lock();
    let mut print = |name: &str, verdict: Verdict| {
        let (word, text) = match verdict {
            Verdict::Held => ("held", String::new()),
            Verdict::Broken(text) => ("broken", text),
            Verdict::NotTried(text) => ("not-tried", text),
        };
        // The write fails only if the reader is gone, and there is no other reader to inform.
        writeln!(out, "{name}\t{word}\t{}", text.replace(['\n', '\t'], " ")).ok();
    };
    for name in &names {
        if !all().any(|c| c.name == name) {
            print(name, Verdict::NotTried("unknown check".to_owned()));
        }
    }
    for check in checks(&facts).filter(|c| names.is_empty() || names.iter().any(|n| n == c.name)) {
        print(check.name, run_apart(check, &facts));
    }
    0
}

/// Parses a line that [`main`] printed.
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
    let Ok((mut reader, mut writer)) = std::io::pipe() else { return Verdict::NotTried("pipe: cannot create".to_owned()) };
    let ended = sys::in_child(TIMEOUT, || {
        let (word, text) = match (check.run)(facts) {
            Verdict::Held => ("held", String::new()),
            Verdict::Broken(text) => ("broken", text),
            Verdict::NotTried(text) => ("not-tried", text),
        };
        // The parent treats missing output as an attack that could not be tried.
        write!(writer, "x\t{word}\t{text}").ok();
    });
    drop(writer);
    let mut text = String::new();
    match ended {
        Ok(0) if reader.read_to_string(&mut text).is_ok() => parse_line(&text)
            .map_or_else(|| Verdict::NotTried("the attack printed no verdict".to_owned()), |(_, verdict)| verdict),
        Ok(libc::SIGSYS) => Verdict::Held,
        Ok(signal) => Verdict::NotTried(format!("the attack was ended by signal {signal}")),
        Err(error) => Verdict::NotTried(format!("fork: {error}")),
    }
}

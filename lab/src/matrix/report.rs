//! Counts tests, and prints the table at the end of a run.

use crate::lab::RESTARTED;
use std::time::Duration;

/// Numbers of tests in a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Number of executables in which at least one test passed.
    pub suites: usize,
}

impl Count {
    /// Adds up the lines `test result: ok. 3 passed; 0 failed; …` after the last start of a machine.
    pub fn parse(log: &str) -> Self {
        let mut all = Self::default();
        let log = log.rsplit(RESTARTED).next().unwrap_or_default();
        for line in log.lines().filter_map(|line| line.split_once("test result: ")).map(|(_, line)| line) {
            let number = |word: &str| {
                let words = line.split([' ', ';', '.']).filter(|word| !word.is_empty());
                let pairs = words.clone().zip(words.skip(1));
                pairs.filter(|(_, second)| *second == word).find_map(|(first, _)| first.parse::<u64>().ok()).unwrap_or(0)
            };
            all.passed += number("passed");
            all.failed += number("failed");
            all.suites += usize::from(number("passed") > 0);
        }
        all
    }
}

/// The result of a step.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Name of the asset or row.
    pub name: String,
    /// True if the row rotates and was selected by the turn.
    pub rotating: bool,
    /// Wall-clock time.
    pub wall: Duration,
    /// Processor time of the step's commands.
    pub spent: Duration,
    /// Counted tests; `None` for a step without tests.
    pub count: Option<Count>,
    /// The reason why the step failed.
    pub failure: Option<String>,
}

/// Returns the table and its closing lines.
pub fn table(steps: &[Ended], turn: Option<u32>, total: Duration) -> String {
    let mut text = format!("\n{:<26} {:>7} {:>7} {:>6}\n", "step", "seconds", "cpu s", "tests");
    let (mut passed, mut failed) = (0, 0);
    for step in steps {
        let tests = step.count.map_or("-".to_owned(), |count| (count.passed + count.failed).to_string());
        let marks =
            [if step.rotating { " (rotating)" } else { "" }, if step.failure.is_some() { " FAILED" } else { "" }].concat();
        let (wall, spent) = (step.wall.as_secs(), step.spent.as_secs());
        text.push_str(&format!("{:<26} {wall:>7} {spent:>7} {tests:>6}{marks}\n", step.name));
        let count = step.count.unwrap_or_default();
        passed += count.passed;
        // A step can fail without a failed test, for example because of a lint, or because a machine died.
        failed += if step.failure.is_some() { count.failed.max(1) } else { 0 };
    }
    let spent: Duration = steps.iter().map(|step| step.spent).sum();
    text.push_str(&format!("{:<26} {:>7} {:>7} {passed:>6}\n", "total", total.as_secs(), spent.as_secs()));
    if let Some(turn) = turn {
        let rows: Vec<&str> = steps.iter().filter(|step| step.rotating).map(|step| step.name.as_str()).collect();
        text.push_str(&format!("rotation: turn {turn} of {}: {}\n", super::step::TURNS, rows.join(", ")));
    }
    text.push_str(&format!("\n{passed} passed, {failed} failed\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_over_all_result_lines() {
        let log = "# a\ntest result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
            b: test result: FAILED. 3 passed; 2 failed; 0 ignored\ntest result: ok. 0 passed; 0 failed\n12 passed\n";
        assert_eq!(Count::parse(log), Count { passed: 15, failed: 2, suites: 2 });
        assert_eq!(Count::parse(""), Count::default());
        let again = format!("{log}{RESTARTED} it ended …\ntest result: ok. 4 passed; 0 failed\n");
        assert_eq!(Count::parse(&again), Count { passed: 4, failed: 0, suites: 1 });
    }

    #[test]
    fn failed_step_without_failed_test_counts_as_one_failure() {
        let step = |name: &str, failure: Option<&str>| Ended {
            name: name.to_owned(),
            rotating: failure.is_none(),
            wall: Duration::from_secs(61),
            spent: Duration::from_secs(100),
            count: failure.is_none().then_some(Count { passed: 7, failed: 0, suites: 1 }),
            failure: failure.map(str::to_owned),
        };
        let text = table(&[step("lints", Some("clippy")), step("pool", None)], Some(3), Duration::from_secs(90));
        assert!(text.contains("lints                           61     100      - FAILED\n"), "{text}");
        assert!(text.contains("rotation: turn 3 of 5: pool\n"), "{text}");
        assert!(text.ends_with("\n7 passed, 1 failed\n"), "{text}");
    }
}

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

/// Returns true if the log of a step that was stopped reports a failed test, even if the suite of the test had not ended.
pub fn has_failed_test(log: &str) -> bool {
    let log = log.rsplit(RESTARTED).next().unwrap_or_default();
    log.lines().any(|line| line.starts_with("test ") && line.ends_with(" ... FAILED"))
}

/// A part of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every run has the step.
    Always,
    /// The step belongs to this commit's turn.
    Rotating,
    /// The step belongs to another turn.
    Other,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All its commands and tests succeeded.
    Passed,
    /// A command or test failed, for this reason.
    Failed(String),
    /// The time limit of the run was reached first. No test of the step had failed.
    NotEnded,
}

/// The result of a step.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Name of the asset or row.
    pub name: String,
    /// The part of the matrix to which the step belongs.
    pub part: Part,
    /// Wall-clock time.
    pub wall: Duration,
    /// Processor time of the step's commands.
    pub spent: Duration,
    /// The time from the start of the run to the end of the step.
    pub at: Duration,
    /// Counted tests; `None` for a step without tests.
    pub count: Option<Count>,
    /// How the step ended.
    pub outcome: Outcome,
}

impl Ended {
    /// Returns the reason why the step failed.
    pub fn failure(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Failed(reason) => Some(reason),
            Outcome::Passed | Outcome::NotEnded => None,
        }
    }
}

/// Returns true if at least one step passed and none failed. A run that reached its time limit must also have passed a test:
/// builds alone prove nothing.
pub fn succeeded(steps: &[Ended]) -> bool {
    let complete = steps.iter().all(|step| step.outcome != Outcome::NotEnded);
    let tested = steps.iter().any(|step| step.count.is_some_and(|count| count.passed > 0));
    let passed = steps.iter().any(|step| step.outcome == Outcome::Passed);
    passed && (complete || tested) && steps.iter().all(|step| step.failure().is_none())
}

/// Returns the table and its closing lines. `turn` is the turn of the commit if whole rows were chosen by it.
pub fn table(steps: &[Ended], turn: Option<u32>, total: Duration) -> String {
    let mut text = format!("\n{:<26} {:>7} {:>7} {:>6}\n", "step", "seconds", "cpu s", "tests");
    let (mut passed, mut failed) = (0, 0);
    for step in steps {
        let tests = step.count.map_or("-".to_owned(), |count| (count.passed + count.failed).to_string());
        let rotating = if step.part == Part::Rotating { " (rotating)" } else { "" };
        let mark = match step.outcome {
            Outcome::Passed => "",
            Outcome::Failed(_) => " FAILED",
            Outcome::NotEnded => " NOT ENDED",
        };
        let marks = [rotating, mark].concat();
        let (wall, spent) = (step.wall.as_secs(), step.spent.as_secs());
        text.push_str(&format!("{:<26} {wall:>7} {spent:>7} {tests:>6}{marks}\n", step.name));
        let count = step.count.unwrap_or_default();
        passed += count.passed;
        // A step can fail without a failed test, for example because of a lint, or because a machine died.
        failed += if step.failure().is_some() { count.failed.max(1) } else { 0 };
    }
    let spent: Duration = steps.iter().map(|step| step.spent).sum();
    text.push_str(&format!("{:<26} {:>7} {:>7} {passed:>6}\n", "total", total.as_secs(), spent.as_secs()));
    if let Some(turn) = turn {
        let rows: Vec<&str> = steps.iter().filter(|step| step.part == Part::Rotating).map(|step| step.name.as_str()).collect();
        text.push_str(&format!("rotation: turn {turn} of {}: {}\n", super::step::TURNS, rows.join(", ")));
        if steps.iter().any(|step| step.part == Part::Other) {
            let own = steps.iter().filter(|step| step.part != Part::Other).map(|step| step.at).max().unwrap_or_default();
            text.push_str(&format!("the steps of a run without --all ended after {} s\n", own.as_secs()));
        }
    }
    let open: Vec<&str> = steps.iter().filter(|step| step.outcome == Outcome::NotEnded).map(|step| step.name.as_str()).collect();
    if !open.is_empty() {
        text.push_str(&format!("not ended within the limit, so not tested by this run: {}\n", open.join(", ")));
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
    fn failed_test_of_unfinished_suite_is_found() {
        assert!(has_failed_test("test a ... ok\ntest b::c ... FAILED\ntest d"));
        assert!(!has_failed_test("test a ... ok\nWhy FAILED\ntest d"));
    }

    #[test]
    fn failed_step_without_failed_test_counts_as_one_failure() {
        let step = |name: &str, failure: Option<&str>| Ended {
            name: name.to_owned(),
            part: if failure.is_none() { Part::Rotating } else { Part::Always },
            wall: Duration::from_secs(61),
            spent: Duration::from_secs(100),
            at: Duration::from_secs(70),
            count: failure.is_none().then_some(Count { passed: 7, failed: 0, suites: 1 }),
            outcome: failure.map_or(Outcome::Passed, |failure| Outcome::Failed(failure.to_owned())),
        };
        let text = table(&[step("lints", Some("clippy")), step("pool", None)], Some(3), Duration::from_secs(90));
        assert!(text.contains("lints                           61     100      - FAILED\n"), "{text}");
        assert!(text.contains("rotation: turn 3 of 8: pool\n"), "{text}");
        assert!(text.ends_with("\n7 passed, 1 failed\n") && !text.contains("without --all"), "{text}");
        let other = Ended { part: Part::Other, at: Duration::from_secs(85), ..step("leaks", None) };
        let text = table(&[step("lints", Some("clippy")), other], Some(3), Duration::from_secs(90));
        assert!(text.contains("the steps of a run without --all ended after 70 s\n"), "{text}");
        let open =
            Ended { outcome: Outcome::NotEnded, count: Some(Count { passed: 3, failed: 0, suites: 1 }), ..step("egress", None) };
        let steps = [step("pool", None), open.clone()];
        let text = table(&steps, None, Duration::from_secs(90));
        assert!(text.contains("not tested by this run: egress\n\n10 passed, 0 failed\n"), "{text}");
        let built = Ended { count: None, ..step("build programs", None) };
        let untested = Ended { count: None, ..open.clone() };
        assert!(succeeded(std::slice::from_ref(&built)) && !succeeded(&[built, untested]));
        assert!(succeeded(&steps) && !succeeded(&[open]) && !succeeded(&[step("pool", None), step("lints", Some("clippy"))]));
    }
}

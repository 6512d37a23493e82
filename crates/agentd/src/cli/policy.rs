//! `agentd policy`: validates, tests and explains policies. It executes nothing.

use super::{
    args::{ExplainArgs, PolicyCommand},
    call, data,
    failure::{self, Failure},
    local_user,
    records::read,
};
use agentd_core::escape;
use agentd_policy::{
    Explanation, IfMissing, PolicyError, PolicyProblem, PolicySet, PolicySets, PolicyTable, RequestSource, ShadowDifference,
    TestResult, Vocabulary, WrittenDefaults, WrittenRequest, explain,
};
use agentd_records::Timestamp;
use serde_json::{Value, json};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// Exit code: the policies are refused, a test failed, or the request is denied.
const REFUSED: u8 = 1;

/// The largest request in bytes.
const MAX_INTENT: usize = 1 << 20;

/// The largest table in bytes.
const MAX_TABLE: usize = 4 << 20;

/// Runs a subcommand. Returns the exit code.
pub(crate) fn policy(command: &PolicyCommand) -> Result<u8, Failure> {
    match command {
        PolicyCommand::Check { path, json } => check(path, *json),
        PolicyCommand::Test { directory, policies, json } => test(directory, policies.as_ref().unwrap_or(directory), *json),
        PolicyCommand::Explain(args) => explained(args),
        PolicyCommand::Default => print(PolicySet::default_text()).map(|()| 0),
        PolicyCommand::Schema => print(&format!("{:#}\n", vocabulary()?.cedar_schema())).map(|()| 0),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Prints a JSON object.
fn print_json(object: &Value) -> Result<(), Failure> {
    print(&format!("{}\n", escape::json(&format!("{object:#}"))))
}

/// Prints text that may contain names from files.
fn print_lines(text: &str) -> Result<(), Failure> {
    text.lines().try_for_each(|line| print(&format!("{}\n", escape::text(line))))
}

/// Returns the words that policies may use: the capabilities, including those of the operator, and the registered backends.
fn vocabulary() -> Result<Vocabulary, Failure> {
    call::words(&call::registry()?)
}

fn load(path: &Path, vocabulary: &Vocabulary) -> Result<PolicySet, PolicyError> {
    if path.is_dir() { PolicySet::load(path, vocabulary) } else { PolicySet::load_file(path, vocabulary) }
}

fn check(path: &Path, json: bool) -> Result<u8, Failure> {
    let (set, problems) = match load(path, &vocabulary()?) {
        Ok(set) => (Some(set), Vec::new()),
        Err(PolicyError::Refused(problems)) => (None, problems),
        Err(other) => return Err(other.into()),
    };
    if json {
        let problem = |problem: &PolicyProblem| {
            let PolicyProblem { file, line, policy, problem } = problem;
            json!({ "file": file, "line": line, "policy": policy, "problem": problem.to_string() })
        };
        print_json(&json!({
            "valid": set.is_some(),
            "policies": set.as_ref().map(PolicySet::ids),
            "digest": set.as_ref().map(PolicySet::digest),
            "problems": problems.iter().map(problem).collect::<Vec<_>>(),
        }))?;
    } else if let Some(set) = &set {
        print(&format!("valid policies: {}\n", set.ids().join(", ")))?;
    } else {
        print_lines(&problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(if set.is_some() { 0 } else { REFUSED })
}

fn test(directory: &Path, policies: &Path, json: bool) -> Result<u8, Failure> {
    let set = load(policies, &vocabulary()?)?;
    let mut results = Vec::new();
    for path in tables(directory)? {
        let failed = |error: &dyn std::fmt::Display| format!("read table of policy tests: {}: {error}", path.display());
        let bytes = read("table of policy tests", &path, MAX_TABLE)?;
        if bytes.len() > MAX_TABLE {
            return Err(failed(&"larger than 4 MiB — split the table into several files").into());
        }
        let wrong = |error: &dyn std::fmt::Display| failed(&format_args!("{error} — correct the table"));
        let text = String::from_utf8(bytes).map_err(|error| wrong(&error))?;
        let table = PolicyTable::parse(&text).map_err(|error| wrong(&error))?;
        results.extend(table.run(&set).into_iter().map(|result| (path.clone(), result)));
    }
    let good = results.iter().filter(|(_, result)| result.differences.is_empty()).count();
    if json {
        print_json(&results.iter().map(|(path, result)| test_object(path, result)).collect())?;
    } else {
        for (path, result) in results.iter().filter(|(_, result)| !result.differences.is_empty()) {
            print_lines(&format!("{}: {}: {}", path.display(), result.name, result.differences.join("; ")))?;
            let explanation = result.explanation.as_ref().map(ToString::to_string).unwrap_or_default();
            print_lines(&explanation.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))?;
        }
        print(&format!("{good} of {} decisions are as expected\n", results.len()))?;
    }
    Ok(if good == results.len() { 0 } else { REFUSED })
}

fn test_object(path: &Path, result: &TestResult) -> Value {
    json!({
        "table": path.display().to_string(),
        "name": result.name,
        "passed": result.differences.is_empty(),
        "differences": result.differences,
        "decision": result.explanation.as_ref().map(|explanation| explanation.decision.to_json()),
    })
}

/// Returns the tables of a directory, in the order of their names.
fn tables(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| failure::of_file("read tables of policy tests", directory, &error);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    if paths.is_empty() {
        let directory = directory.display();
        return Err(format!("read tables of policy tests: {directory}: no file name in it ends in .toml — add a table").into());
    }
    Ok(paths)
}

fn explained(args: &ExplainArgs) -> Result<u8, Failure> {
    let vocabulary = vocabulary()?;
    let sets = match &args.policies {
        Some(path) => PolicySets { enforced: load(path, &vocabulary)?, shadow: None, is_default: false },
        None => PolicySets::load(&data::folder()?.join("policy"), &vocabulary, IfMissing::UseDefault)?,
    };
    let failed = |error: &dyn std::fmt::Display| format!("read intent: {}: {error}", args.intent.display());
    let bytes = read("intent", &args.intent, MAX_INTENT)?;
    if bytes.len() > MAX_INTENT {
        return Err(failed(&"larger than 1 MiB — shorten the parameters").into());
    }
    let written: WrittenRequest =
        serde_json::from_slice(&bytes).map_err(|error| failed(&format_args!("{error} — correct the request")))?;
    let backends: Vec<&str> = vocabulary.backends().collect();
    let (request, requested) = written.complete(&defaults()?, &backends).map_err(|error| failed(&error))?;
    let explanation = explain(&sets.enforced, &request, &requested);
    let shadow = sets.shadow.as_ref().map(|shadow| explain(shadow, &request, &requested));
    if args.json {
        let mut object = explanation.to_json();
        object["default_policy"] = sets.is_default.into();
        object["shadow"] = shadow.as_ref().map(Explanation::to_json).into();
        print_json(&object)?;
    } else {
        if sets.is_default {
            print("the default policy decides, because no policies were written\n")?;
        }
        print_lines(&explanation.to_string())?;
        if let Some(shadow) = shadow.filter(|shadow| ShadowDifference::between(&explanation.decision, &shadow.decision).is_some())
        {
            print_lines(&format!("the shadow policies would decide otherwise:\n{shadow}"))?;
        }
    }
    Ok(if explanation.is_permitted() { 0 } else { REFUSED })
}

/// Returns the values for what a written request does not state: this user, and the current time.
fn defaults() -> Result<WrittenDefaults, Failure> {
    let principal = local_user::principal()?;
    let source = RequestSource { transport: "command-line".to_owned(), address: None };
    Ok(WrittenDefaults { principal, time: Timestamp::now(), source })
}

//! Interpreter sessions of `code.run.v1`, as a user meets them. Each test has its own folder, and therefore its own daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod attacks;
mod ends;
mod place;
mod results;
mod shell;
mod starts;
mod terms;

use place::User;
use serde_json::json;

#[test]
fn variables_imports_and_directory_are_kept_between_cells() {
    let user = User::new();
    let first = user.python("a", "import os\nos.makedirs('/tmp/d'); os.chdir('/tmp/d')\nx = 40");
    assert_eq!((&first["session"]["new"], &first["session"]["handle"]), (&json!(true), &json!("a")), "{first:#}");
    let second = user.python("a", "print(os.getcwd())\nx + 2");
    assert_eq!((&second["session"]["new"], &second["session"]["lost"]), (&json!(false), &json!(false)));
    assert_eq!((&second["stdout"]["text"], &second["value"]["text/plain"]), (&json!("/tmp/d\n"), &json!("42")));

    user.cell("node", "a", "const x = 40; process.chdir('/tmp');");
    let second = user.cell("node", "a", "console.log(process.cwd()); x + 2");
    assert_eq!((&second["stdout"]["text"], &second["value"]["text/plain"]), (&json!("/tmp\n"), &json!("42")), "{second:#}");

    user.cell("bash", "a", "x=40; f() { echo $((x + 2)); }; cd /tmp");
    assert_eq!(user.cell("bash", "a", "pwd; f; echo err >&2")["stdout"]["text"], "/tmp\n42\n");
}

#[test]
fn new_session_returns_its_handle() {
    let user = User::new();
    let first = user.python("new", "x = 1");
    let handle = first["session"]["handle"].as_str().unwrap();
    assert_eq!(user.python(handle, "x")["value"]["text/plain"], "1");
    assert_eq!(user.python("new", "'x' in globals()")["value"]["text/plain"], "False");
    let names = user.good(&["sandbox", "ls"]);
    assert!(names.contains(first["session"]["sandbox"].as_str().unwrap()), "{names}");
}

#[test]
fn cells_work_in_the_workspace() {
    let user = User::new();
    std::fs::write(user.path("work/in"), "text").unwrap();
    let result = user.python("a", "open('out', 'w').write('made')\nopen('in').read()");
    assert_eq!(result["value"]["text/plain"], "'text'");
    assert_eq!(std::fs::read_to_string(user.path("work/out")).unwrap(), "made");
}

#[test]
fn output_is_live_and_the_text_form_has_values() {
    use std::io::{BufRead as _, BufReader};
    let user = User::new();
    // The cell waits for a file that is made after its first line was read.
    let source = "import os, time\nprint('first')\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('second')\n6 * 7";
    let parameters = json!({ "language": "python", "session": "a", "source": source }).to_string();
    let mut command = user.command(&["call", "code.run.v1", "--params", &parameters]);
    let mut call = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(call.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    std::fs::write(user.path("work/go"), "").unwrap();
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(rest, ["second", "42"]);
    let output = call.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains("session a begins"), "{output:?}");
}

#[test]
fn duplicate_of_a_cell_is_not_executed_again() {
    let user = User::new();
    user.python("a", "x = 0");
    let options = ["--key", "k"];
    let (_, first) = user.python_with("a", "x += 1; x", &options);
    let (_, second) = user.python_with("a", "x += 1; x", &options);
    assert_eq!((&second["duplicate"], &second["result"]), (&json!(true), &first["result"]));
    assert_eq!(user.python("a", "x")["value"]["text/plain"], "1");
}

#[test]
fn concurrent_cells_of_a_session_run_one_after_the_other() {
    let user = User::new();
    let source = "x = globals().get('x', 0)\nbefore = x\nimport time; time.sleep(0.05)\nx = before + 1\nx";
    let cells: Vec<_> = (0..4)
        .map(|_| user.cell_command("python", "a", source, &[]).stdout(std::process::Stdio::piped()).spawn().unwrap())
        .collect();
    let results: Vec<_> = cells.into_iter().map(|cell| place::object(&cell.wait_with_output().unwrap())).collect();
    let mut values: Vec<_> = results.iter().map(|object| object["result"]["value"]["text/plain"].as_str().unwrap()).collect();
    values.sort_unstable();
    assert_eq!(values, ["1", "2", "3", "4"]);
    assert_eq!(results.iter().filter(|object| object["result"]["session"]["new"] == true).count(), 1);
}

//! Rich results: values, images, tables and errors.

use crate::place::User;
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::fs;

const TABLE: &str = "application/vnd.agentd.table+json";

#[test]
fn errors_have_name_value_and_traceback_and_the_session_continues() {
    let user = User::new();
    let (code, object) = user.python_with("a", "x = 1\ndef f():\n    return 1 / 0\nf()", &[]);
    assert_eq!((code, &object["status"], &object["exit_code"]), (1, &json!("finished"), &json!(1)), "{object:#}");
    let error = &object["result"]["error"];
    assert_eq!((&error["name"], &error["value"]), (&json!("ZeroDivisionError"), &json!("division by zero")));
    let traceback = error["traceback"].as_str().unwrap();
    assert!(traceback.contains("<cell 1>") && traceback.contains("return 1 / 0") && !traceback.contains("kernel"), "{traceback}");
    for source in ["raise SystemExit(3)", "def (", "raise KeyboardInterrupt", "import no_such_module"] {
        assert_eq!(user.python_with("a", source, &[]).0, 1, "{source}");
    }
    assert_eq!(user.python("a", "x")["value"]["text/plain"], "1");
    let (code, object) = user.cell_with("node", "a", "null.x", &[]);
    assert_eq!((code, &object["result"]["error"]["name"]), (1, &json!("TypeError")), "{object:#}");
    assert_eq!(user.cell_with("bash", "a", "f() { return 7; }; f", &[]).0, 7);
}

/// The kernel counts the processor time of an interpreter when it ends, which is later.
#[test]
fn usage_of_a_cell_states_only_what_is_known() {
    let user = User::new();
    let receipt = user.path("receipt");
    let (_, object) = user.python_with("a", "sum(range(10 ** 6))", &["--receipt", receipt.to_str().unwrap()]);
    let usage = &object["sandbox"]["usage"];
    assert!(usage["wall_us"].as_u64().unwrap() > 0, "{usage}");
    for unknown in ["cpu_user_us", "cpu_system_us", "peak_memory_bytes"] {
        assert_eq!(usage[unknown], serde_json::Value::Null, "{usage}");
    }
    let verified = user.good(&["receipt", "verify", receipt.to_str().unwrap()]);
    assert!(verified.contains("wall_us") && !verified.contains("cpu_user_us"), "{verified}");
}

#[test]
fn values_and_displays_have_all_their_forms() {
    let user = User::new();
    let source = "class Chart:\n    def _repr_png_(self): return b'\\x89PNG'\n    def _repr_svg_(self): return '<svg/>'\n    \
                  def _repr_html_(self): return '<p>'\ndisplay(Chart())\nChart()";
    let result = user.python("a", source);
    for forms in [&result["displays"][0], &result["value"]] {
        assert_eq!(forms["image/png"], BASE64.encode(b"\x89PNG"), "{forms:#}");
        assert_eq!((&forms["image/svg+xml"], &forms["text/html"]), (&json!("<svg/>"), &json!("<p>")));
    }
    let awaited = user.python("a", "import asyncio\nawait asyncio.sleep(0)\n'awaited'");
    assert_eq!(awaited["value"]["text/plain"], "'awaited'");
    let result = user.cell("node", "a", "display.svg('<svg/>'); [{ a: 1, b: 'x' }, { a: 2 }]");
    assert_eq!(result["displays"][0]["image/svg+xml"], "<svg/>");
    assert_eq!(result["value"][TABLE]["columns"], json!(["a", "b"]));
    assert_eq!(result["value"][TABLE]["rows"], json!([[1, "x"], [2, null]]));
    assert_eq!(user.cell("node", "a", "await Promise.resolve(1); console.log('awaited')")["stdout"]["text"], "awaited\n");
}

/// Modules with the parts of pandas and matplotlib that the kernel uses, for machines that do not have them.
const PANDAS: &str = "import json\nclass DataFrame:\n    def __init__(self, rows): self.rows = rows\n    def __len__(self): return len(self.rows)\n    \
    def head(self, count): return DataFrame(self.rows[:count])\n    \
    def to_json(self, orient, date_format): return json.dumps({'columns': ['a'], 'index': list(range(len(self.rows))), 'data': self.rows})\n";
const FIGURE: &str = "class Figure:\n    def savefig(self, to, format, bbox_inches): to.write(b'\\x89PNG')\n";
const PYPLOT: &str = "from matplotlib.figure import Figure\nopened = {}\ndef figure(number=1): return opened.setdefault(number, Figure())\n\
    def get_fignums(): return list(opened)\ndef close(which): opened.clear()\n";

#[test]
fn data_frames_become_tables_and_figures_become_images() {
    let user = User::new();
    fs::create_dir(user.path("work/matplotlib")).unwrap();
    for (name, text) in [("pandas.py", PANDAS), ("matplotlib/__init__.py", ""), ("matplotlib/figure.py", FIGURE)] {
        fs::write(user.path("work").join(name), text).unwrap();
    }
    fs::write(user.path("work/matplotlib/pyplot.py"), PYPLOT).unwrap();
    let result = user.python("a", "import pandas\npandas.DataFrame([[number] for number in range(5000)])");
    let table = &result["value"][TABLE];
    assert_eq!((&table["columns"], &table["total_rows"]), (&json!(["a"]), &json!(5000)));
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(1000), "a table has at most 1000 rows");
    let result = user.python("a", "import matplotlib.pyplot as plot\n_ = plot.figure()");
    assert_eq!(result["displays"][0]["image/png"], BASE64.encode(b"\x89PNG"), "{result:#}");
    assert_eq!(user.python("a", "1")["displays"], json!([]), "figures are closed");
}

#[test]
fn text_without_a_form_in_json_is_replaced() {
    let user = User::new();
    for source in [
        "'\\ud800'",
        "class N:\n    def _repr_json_(self): return float('nan')\nN()",
        "class D:\n    def _repr_json_(self):\n        x = []\n        for _ in range(500): x = [x]\n        return x\nD()",
        "class R:\n    def __repr__(self): raise ValueError\nR()",
        "import sys; sys.stdout.buffer.write(b'\\xff\\x00') and None",
    ] {
        let result = user.python("a", source);
        assert_eq!(result["session"]["lost"], false, "{source}: {result:#}");
    }
    let result = user.cell("node", "a", "'\\ud800'");
    assert_eq!(result["session"]["lost"], false, "{result:#}");
}

/// Returns the digests of the subjects of a receipt, by name.
fn subjects(object: &Value) -> Value {
    let payload = object["receipt"]["payload"].as_str().unwrap();
    let statement: Value = serde_json::from_slice(&BASE64.decode(payload.as_bytes()).unwrap()).unwrap();
    let subjects = statement["subject"].as_array().unwrap().iter();
    subjects.map(|subject| (subject["name"].as_str().unwrap().to_owned(), subject["digest"]["sha256"].clone())).collect()
}

#[test]
fn digests_cover_output_and_reports_that_were_not_kept() {
    let user = User::new();
    let (code, object) = user.python_with("a", "print('x' * 1_000_000)\nfor n in range(300): display(n)", &[]);
    assert_eq!(code, 0, "{object:#}");
    let result = &object["result"];
    assert_eq!((&result["stdout"]["bytes"], &result["omitted"]), (&json!(1_000_001), &json!(44)));
    let whole = format!("{}\n", "x".repeat(1_000_000));
    fs::write(user.path("whole"), whole).unwrap();
    let output = std::process::Command::new("sha256sum").arg(user.path("whole")).output().unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    assert_eq!(subjects(&object)["stdout"].as_str(), expected.split(' ').next());
    assert!(subjects(&object)["reports"].is_string());
}

//! Decides what a statement may do, when SQLite compiles it (`https://sqlite.org/c3ref/set_authorizer.html`).

use rusqlite::hooks::{AuthAction, Authorization};

/// Functions that load code, or that change how text is read.
const FUNCTIONS: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// Virtual tables that hold their data in the database.
const MODULES: [&str; 2] = ["fts5", "rtree"];

/// Settings that can be read without changing the database or the connection.
const READABLE: [&str; 13] = [
    "application_id",
    "auto_vacuum",
    "data_version",
    "encoding",
    "foreign_keys",
    "freelist_count",
    "journal_mode",
    "page_count",
    "page_size",
    "schema_version",
    "user_version",
    "compile_options",
    "database_list",
];

/// Pragmas that describe the schema or check the database. Their argument is the name of a table or an index, or a number.
const DESCRIPTIONS: [&str; 10] = [
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_xinfo",
];

/// Returns whether a statement may do `action`.
pub(super) fn decide(action: &AuthAction<'_>, write: bool) -> Authorization {
    let is_one_of = |names: &[&str], name: &str| names.iter().any(|known| name.eq_ignore_ascii_case(known));
    let allowed = match action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => true,
        AuthAction::Function { function_name } => !is_one_of(&FUNCTIONS, function_name),
        AuthAction::Pragma { pragma_name, pragma_value } => {
            is_one_of(&DESCRIPTIONS, pragma_name)
                || pragma_name.eq_ignore_ascii_case("table_list")
                || (pragma_value.is_none() && is_one_of(&READABLE, pragma_name))
        }
        AuthAction::CreateVtable { module_name, .. } => write && is_one_of(&MODULES, module_name),
        AuthAction::Insert { .. }
        | AuthAction::Update { .. }
        | AuthAction::Delete { .. }
        | AuthAction::AlterTable { .. }
        | AuthAction::Analyze { .. }
        | AuthAction::Reindex { .. }
        | AuthAction::CreateIndex { .. }
        | AuthAction::CreateTable { .. }
        | AuthAction::CreateTrigger { .. }
        | AuthAction::CreateView { .. }
        | AuthAction::DropIndex { .. }
        | AuthAction::DropTable { .. }
        | AuthAction::DropTrigger { .. }
        | AuthAction::DropView { .. }
        | AuthAction::DropVtable { .. } => write,
        // ATTACH, DETACH, transactions and temporary objects: a request is one statement on one database.
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

//! Changes one entry in the text of a configuration file. Everything else in the text stays as it is: order, comments, layout.

use super::client::Syntax;
use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstObject, CstRootNode},
};
use serde_json::Value;
use toml_edit::{DocumentMut, Item, Table};

/// The reason why a text is not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EntryError {
    /// The text cannot be parsed.
    #[error("{0} — correct the file")]
    Syntax(String),
    /// The text has something else where a table is expected.
    #[error("`{0}` is not a table — correct the file")]
    NotTable(String),
    /// The text has an entry with other content.
    #[error("the entry `{0}` has other content")]
    Differs(String),
}

/// Returns the text with the entry; `None` if it has exactly this entry already.
///
/// # Errors
/// [`EntryError`]. An entry with other content is replaced only with `force`.
pub(super) fn with(
    text: &str,
    syntax: Syntax,
    table: &str,
    name: &str,
    entry: &Value,
    force: bool,
) -> Result<Option<String>, EntryError> {
    match syntax {
        Syntax::Json => {
            let root = json(text)?;
            let servers = match root.value() {
                None => root.object_value_or_set(),
                Some(_) => root.object_value().ok_or_else(|| EntryError::NotTable("the file".to_owned()))?,
            };
            let servers = match servers.get(table) {
                None => servers.object_value_or_set(table),
                Some(found) => found.object_value().ok_or_else(|| EntryError::NotTable(table.to_owned()))?,
            };
            match of_object(&servers, name)? {
                Some(found) if found == *entry => return Ok(None),
                Some(_) if !force => return Err(EntryError::Differs(format!("{table}.{name}"))),
                Some(_) => {
                    if let Some(property) = servers.get(name) {
                        property.set_value(input(entry));
                    }
                }
                None => {
                    servers.append(name, input(entry));
                }
            }
            let mut text = root.to_string();
            if !text.ends_with('\n') {
                text.push('\n');
            }
            Ok(Some(text))
        }
        Syntax::Toml => {
            let mut document = toml(text)?;
            if let Some(found) = of_table(&document, table, name)? {
                if found == *entry {
                    return Ok(None);
                }
                if !force {
                    return Err(EntryError::Differs(format!("{table}.{name}")));
                }
            }
            let mut servers = Table::new();
            servers.set_implicit(true);
            let servers = document.entry(table).or_insert(Item::Table(servers));
            let servers = servers.as_table_like_mut().ok_or_else(|| EntryError::NotTable(table.to_owned()))?;
            let new: Table = entry.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), item(value))).collect();
            servers.insert(
                name,
                if servers_are_inline(servers) { Item::Value(new.into_inline_table().into()) } else { Item::Table(new) },
            );
            Ok(Some(document.to_string()))
        }
    }
}

/// Returns the text without the entry; `None` if it has none.
///
/// # Errors
/// [`EntryError`]. An entry with other content is removed only with `force`.
pub(super) fn without(
    text: &str,
    syntax: Syntax,
    table: &str,
    name: &str,
    entry: &Value,
    force: bool,
) -> Result<Option<String>, EntryError> {
    let differs = || EntryError::Differs(format!("{table}.{name}"));
    match syntax {
        Syntax::Json => {
            let root = json(text)?;
            let Some(servers) = root.object_value().and_then(|root| root.object_value(table)) else { return Ok(None) };
            match of_object(&servers, name)? {
                None => return Ok(None),
                Some(found) if found != *entry && !force => return Err(differs()),
                Some(_) => {}
            }
            if let Some(property) = servers.get(name) {
                property.remove();
            }
            Ok(Some(root.to_string()))
        }
        Syntax::Toml => {
            let mut document = toml(text)?;
            match of_table(&document, table, name)? {
                None => return Ok(None),
                Some(found) if found != *entry && !force => return Err(differs()),
                Some(_) => {}
            }
            if let Some(servers) = document.get_mut(table).and_then(Item::as_table_like_mut) {
                servers.remove(name);
            }
            Ok(Some(document.to_string()))
        }
    }
}

/// Parses JSON with comments and trailing commas, as these agents do.
fn json(text: &str) -> Result<CstRootNode, EntryError> {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    CstRootNode::parse(text, &options).map_err(|error| EntryError::Syntax(error.to_string()))
}

fn of_object(servers: &CstObject, name: &str) -> Result<Option<Value>, EntryError> {
    let Some(property) = servers.get(name) else { return Ok(None) };
    let value = property.value().and_then(|value| value.to_serde_value());
    value.map(Some).ok_or_else(|| EntryError::Syntax(format!("`{name}` has no value")))
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(flag) => CstInputValue::Bool(*flag),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(name, member)| (name.clone(), input(member))).collect())
        }
    }
}

fn toml(text: &str) -> Result<DocumentMut, EntryError> {
    text.parse::<DocumentMut>().map_err(|error| EntryError::Syntax(error.message().to_owned()))
}

fn of_table(document: &DocumentMut, table: &str, name: &str) -> Result<Option<Value>, EntryError> {
    let Some(servers) = document.get(table) else { return Ok(None) };
    let servers = servers.as_table_like().ok_or_else(|| EntryError::NotTable(table.to_owned()))?;
    Ok(servers.get(name).map(value))
}

fn servers_are_inline(servers: &dyn toml_edit::TableLike) -> bool {
    servers.iter().next().is_some_and(|(_, first)| first.is_value() && first.as_inline_table().is_some())
}

/// Returns a part of a TOML document as JSON. What JSON has no form for becomes null, which no entry of agentd contains.
fn value(item: &Item) -> Value {
    fn of(value: &toml_edit::Value) -> Value {
        match value {
            toml_edit::Value::String(text) => text.value().clone().into(),
            toml_edit::Value::Integer(number) => (*number.value()).into(),
            toml_edit::Value::Boolean(flag) => (*flag.value()).into(),
            toml_edit::Value::Array(values) => Value::Array(values.iter().map(of).collect()),
            toml_edit::Value::InlineTable(members) => members.iter().map(|(key, member)| (key.to_owned(), of(member))).collect(),
            toml_edit::Value::Float(_) | toml_edit::Value::Datetime(_) => Value::Null,
        }
    }
    match item {
        Item::Value(found) => of(found),
        Item::Table(members) => members.iter().map(|(key, member)| (key.to_owned(), value(member))).collect(),
        Item::None | Item::ArrayOfTables(_) => Value::Null,
    }
}

fn item(value: &Value) -> Item {
    fn of(value: &Value) -> toml_edit::Value {
        match value {
            Value::Bool(flag) => (*flag).into(),
            Value::Number(number) => number.as_i64().unwrap_or_default().into(),
            Value::Array(values) => values.iter().map(of).collect::<toml_edit::Array>().into(),
            other => other.as_str().unwrap_or_default().into(),
        }
    }
    Item::Value(of(value))
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;

//! Row changes as people and programs read them.

use control_node::config::{key_text, row_to_json};
use control_proto::ccd::{Database, Row, RowChange};
use control_proto::rows::ClusterRows;
use serde_json::{Value, json};
use std::fmt::Write;

/// One row before and after. (Both absent never happens.)
pub(crate) struct Difference {
    /// As people call it.
    pub(crate) row: String,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

/// What changes would do to these rows; those that change nothing are left out.
pub(crate) fn differences(database: &Database, changes: &[RowChange]) -> Vec<Difference> {
    let rows = database.rows();
    // Names of rows that come with the same change.
    let mut after_all = ClusterRows::clone(rows);
    for change in changes {
        match change {
            RowChange::Put(Row::Format(_)) => {}
            RowChange::Put(row) => drop(after_all.put(row.clone())),
            RowChange::Remove(key) => drop(after_all.remove(key)),
        }
    }
    let difference = |change: &RowChange| {
        let key = change.key();
        let before = database.row(&key).map(|row| as_json(rows, &row));
        let after = match change {
            RowChange::Put(row) => Some(as_json(&after_all, row)),
            RowChange::Remove(_) => None,
        };
        let named = if before.is_some() { rows } else { &after_all };
        (before != after).then(|| Difference { row: key_text(named, &key), before, after })
    };
    changes.iter().filter_map(difference).collect()
}

/// The rows of a cluster that is to begin.
pub(crate) fn additions(rows: &ClusterRows) -> Vec<Difference> {
    let addition = |row: Row| Difference {
        row: key_text(rows, &row.key()),
        before: None,
        after: Some(as_json(rows, &row)),
    };
    rows.all_rows().map(addition).collect()
}

/// One row; of those that are not in a configuration file, their bare words.
pub(crate) fn as_json(rows: &ClusterRows, row: &Row) -> Value {
    match row_to_json(rows, row) {
        Value::Null => Value::String(format!("{row:?}")),
        value => value,
    }
}

/// For programs.
pub(crate) fn json(differences: &[Difference]) -> Value {
    let one = |difference: &Difference| {
        let action = match (&difference.before, &difference.after) {
            (None, _) => "add",
            (_, None) => "remove",
            _ => "change",
        };
        json!({
            "row": difference.row, "action": action,
            "before": difference.before, "after": difference.after,
        })
    };
    Value::Array(differences.iter().map(one).collect())
}

/// For people: `+` what comes, `-` what goes, `~` what changes, with the fields that do.
pub(crate) fn text(differences: &[Difference]) -> String {
    let mut out = String::new();
    for difference in differences {
        // Writing to a string cannot fail.
        let _ = match (&difference.before, &difference.after) {
            (None, Some(after)) => writeln!(out, "+ {}\n{}", difference.row, fields(after)),
            (Some(before), Some(after)) => {
                writeln!(out, "~ {}\n{}", difference.row, fields_changed(before, after))
            }
            _ => writeln!(out, "- {}", difference.row),
        };
    }
    out
}

fn fields(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let lines: Vec<String> =
                fields.iter().map(|(key, value)| format!("    {key} = {value}")).collect();
            lines.join("\n")
        }
        other => format!("    {other}"),
    }
}

fn fields_changed(before: &Value, after: &Value) -> String {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return format!("    {before} -> {after}");
    };
    let mut lines = Vec::new();
    for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
        let (from, to) = (old.get(key), new.get(key));
        if from != to {
            let word = |value: Option<&Value>| value.map_or_else(|| "nothing".into(), Value::to_string);
            lines.push(format!("    {key}: {} -> {}", word(from), word(to)));
        }
    }
    lines.join("\n")
}

/// Rows of words under a head, in columns.
pub(crate) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|word| word.chars().count()).collect();
    for row in rows {
        for (width, word) in widths.iter_mut().zip(row) {
            *width = (*width).max(word.chars().count());
        }
    }
    let line = |words: &[String]| {
        let mut line = String::new();
        for (place, (word, width)) in words.iter().zip(&widths).enumerate() {
            let gap = if place > 0 { "  " } else { "" };
            let _ = write!(line, "{gap}{word:<width$}");
        }
        format!("{}\n", line.trim_end())
    };
    let head: Vec<String> = head.iter().map(|word| (*word).to_owned()).collect();
    let mut out = line(&head);
    rows.iter().for_each(|row| out.push_str(&line(row)));
    out
}

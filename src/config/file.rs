//! The configuration file: JSON, in which a line that begins with `//` is a comment.

use std::path::Path;

use serde_json::Value;

use crate::model::Invalid;

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Value, Invalid> {
    let fault = |why: String| Invalid::new("file", why);
    let text = std::fs::read_to_string(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    // Comments become empty lines, so that a fault is still reported on its line.
    let json: Vec<&str> = text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect();
    serde_json::from_str(&json.join("\n")).map_err(|error| fault(format!("is not valid JSON: {error}")))
}

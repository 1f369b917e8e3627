//! `discover`: services by a name whose addresses are their instances, each entry as for `POST /register` but for what an address tells.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::contract::envelope;
use crate::mesh::Discovery;
use crate::model::{Host, Invalid, shown};

/// From one look-up of a name to the next, where nothing else is said.
const INTERVAL_MS: u64 = 5_000;

/// Reads the list.
///
/// # Errors
/// [`Invalid`] naming the entry and the field that is not acceptable.
pub(super) fn read(list: &[Value]) -> Result<Vec<Discovery>, Invalid> {
    let mut all: Vec<Discovery> = Vec::new();
    for (n, json) in list.iter().enumerate() {
        let one = super::under(&format!("discover[{n}]"), entry(json))?;
        if all.iter().any(|other| other.is_same(&one)) {
            return Err(Invalid::new(format!("discover[{n}].dns"), format!("{} is listed twice for the same service and port", one.name)));
        }
        all.push(one);
    }
    Ok(all)
}

fn entry(json: &Value) -> Result<Discovery, Invalid> {
    let Value::Object(fields) = json else { return Err(Invalid::new("entry", "is not a JSON object")) };
    let mut fields: Map<String, Value> = fields.clone();
    if let Some(field) = ["id", "host", "healthy", "ttlSeconds"].into_iter().find(|field| fields.contains_key(*field)) {
        return Err(Invalid::new(field, "is not for instances that are found; each is an address of dns"));
    }
    let text = match fields.remove("dns") {
        Some(Value::String(text)) => text,
        Some(_) => return Err(Invalid::new("dns", "is not text")),
        None => return Err(Invalid::new("dns", "is missing; name what is to be looked up")),
    };
    let name = Host::new(&text).map_err(|fault| Invalid::new("dns", fault.why))?;
    if matches!(name, Host::Ip(_)) {
        return Err(Invalid::new("dns", format!("{} is an address; list it under instances", shown(&text))));
    }
    let every = match fields.remove("intervalMs").map(|every| every.as_u64().ok_or(every)) {
        None => INTERVAL_MS,
        Some(Ok(every @ 100..=86_400_000)) => every,
        Some(Ok(every)) => return Err(Invalid::new("intervalMs", format!("{every} is out of range; use 100 to 86400000"))),
        Some(Err(other)) => {
            return Err(Invalid::new("intervalMs", format!("{} is not a number of milliseconds", shown(&other.to_string()))));
        }
    };
    // What an address will tell, for the rest to be read as ever.
    fields.insert("host".to_owned(), text.into());
    fields.insert("id".to_owned(), "found".into());
    let pattern = envelope::registration(Value::Object(fields).to_string().as_bytes())?;
    Ok(Discovery { name, every: Duration::from_millis(every), pattern })
}

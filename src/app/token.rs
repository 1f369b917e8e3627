//! `weft token new`: a new token, shown once, and its line for the token file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Fatal;
use crate::config::{Config, ConfigError, NewToken};
use crate::contract::tokens::{Entry, digest, is_comment, scope};
use crate::model::Invalid;
use crate::server::token_file;

/// Makes a token. With a token file, the file knows it afterwards, as a second token if the name is there already.
pub(super) fn run(new: &NewToken, config: &Config) -> Result<(), Fatal> {
    let token = random()?;
    let scopes = new.scopes.iter().map(|word| scope(word)).collect::<Result<_, _>>().map_err(|fault| usage(&fault))?;
    let entry = Entry {
        name: new.name.clone(),
        scopes,
        service_prefix: new.service_prefix.clone(),
        max_instances: new.max_instances,
        digests: vec![digest(token.as_bytes())],
    };
    let path = config.server.token_file.as_str();
    if path.is_empty() {
        let entry = entry.checked().map_err(|fault| usage(&fault))?;
        say!("{token}");
        say!("{}", entry.line());
        return Ok(());
    }
    let changed = token_file::change(Path::new(path), |text| {
        with(text, entry).map_err(|fault| Fatal::Config(ConfigError { source: path.to_owned(), fault }))
    });
    changed.map_err(|error| match error {
        Fatal::Io(error) => Fatal::Io(io::Error::new(error.kind(), format!("{path}: {error}"))),
        other => other,
    })?;
    say!("{token}");
    Ok(())
}

/// The file with the new token in it; everything else stays as it is.
fn with(text: &str, entry: Entry) -> Result<String, Invalid> {
    let mut lines = Vec::new();
    let mut is_there = false;
    for line in text.lines() {
        let known = if is_comment(line) { None } else { Some(Entry::parse(line)?) };
        match known.filter(|known| known.name == entry.name) {
            Some(mut known) => {
                is_there = true;
                // Two tokens of a name are for the same; one that was meant to be for less would be for more.
                for (is_other, key, flag) in [
                    (!entry.scopes.is_empty() && entry.scopes != known.scopes, "scopes", "--scope"),
                    (entry.service_prefix.is_some() && entry.service_prefix != known.service_prefix, "servicePrefix", "--service-prefix"),
                    (entry.max_instances.is_some() && entry.max_instances != known.max_instances, "maxInstances", "--max-instances"),
                ] {
                    if is_other {
                        return Err(Invalid::new(key, format!("is not what this name has; leave {flag} out, or use another name")));
                    }
                }
                known.digests.extend(&entry.digests);
                lines.push(known.checked()?.line());
            }
            None => lines.push(line.to_owned()),
        }
    }
    if !is_there {
        lines.push(entry.checked()?.line());
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn usage(fault: &Invalid) -> Fatal {
    Fatal::Usage(fault.to_string())
}

/// 256 bits that nobody can guess.
fn random() -> io::Result<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 43];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    // Six bits of each are used: 43 digits hold 258.
    let digits = bytes.iter().filter_map(|byte| DIGITS.get(usize::from(byte & 63)));
    Ok(format!("weft_{}", digits.map(|digit| char::from(*digit)).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::router::Scope;

    fn entry(token: &str, scopes: Vec<Scope>) -> Entry {
        let digests = vec![digest(token.as_bytes())];
        Entry { name: "ci".to_owned(), scopes, service_prefix: None, max_instances: None, digests }
    }

    #[test]
    fn a_new_name_is_added_and_a_known_one_gets_a_second_token() {
        let first = with("// who may\n", entry("a", vec![Scope::Read])).expect("added");
        assert!(first.starts_with("// who may\n{\"name\":\"ci\"") && first.ends_with("}\n"), "{first}");
        let second = with(&first, entry("b", Vec::new())).expect("added");
        assert_eq!(second.lines().count(), 2);
        assert_eq!(Entry::parse(second.lines().last().unwrap_or_default()).expect("valid").digests.len(), 2);
        assert_eq!(with(&second, entry("c", Vec::new())).expect_err("a third").field, "sha256");
        assert_eq!(with(&first, entry("b", vec![Scope::Admin])).expect_err("other scopes").field, "scopes");
        let for_some = |prefix: &str| Entry { service_prefix: Some(prefix.to_owned()), ..entry("b", Vec::new()) };
        assert_eq!(with(&first, for_some("pay-")).expect_err("not for all").field, "servicePrefix");
        assert_eq!(with(&first, Entry { max_instances: Some(1), ..entry("b", Vec::new()) }).expect_err("no limit").field, "maxInstances");
        let some = with("", Entry { scopes: vec![Scope::Read], ..for_some("pay-") }).expect("added");
        assert!(with(&some, for_some("pay-")).is_ok() && with(&some, entry("b", Vec::new())).is_ok());
        assert_eq!(with("", entry("b", Vec::new())).expect_err("no scopes").field, "scopes");
    }

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, other) = (random().expect("random"), random().expect("random"));
        assert_eq!(one.len(), 48);
        assert_ne!(one, other);
    }
}

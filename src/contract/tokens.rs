//! The token file: one line of JSON for each caller, with what it may do and the SHA-256 digests of its tokens.
//!
//! ```json
//! {"name":"ci","scopes":["read","register"],"servicePrefix":"pay-","maxInstances":50,"sha256":["9f86d081884c7d65…"]}
//! ```
//!
//! Digests say nothing of the tokens, which are random and long; a token that is shown is looked up by its digest, so that the time it takes
//! tells nothing either. A caller may have two, so that the new one can be in use before the old one goes.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::caller::{Grant, Identity, Scopes, Source};
use super::router::Scope;
use crate::model::{Invalid, ServiceName, closest, shown};

/// Tokens that one name may have at once.
pub const MOST_PER_NAME: usize = 2;

/// The SHA-256 of a token.
pub type Digest = [u8; 32];

/// The digest of a token.
pub fn digest(token: &[u8]) -> Digest {
    Sha256::digest(token).into()
}

/// The callers that are known.
#[derive(Default)]
pub struct Tokens {
    by_digest: HashMap<Digest, Arc<Grant>>,
    by_name: HashMap<Arc<str>, Arc<Grant>>,
}

impl Tokens {
    /// Reads a token file. Empty lines, and those that begin with `//`, are comments.
    ///
    /// # Errors
    /// [`Invalid`] naming the line and the key; nothing of what may be a secret is repeated.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut tokens = Self::default();
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
            let at = |fault: Invalid| Invalid::new(format!("line {}: {}", n + 1, fault.field), fault.why);
            let entry = Entry::parse(line).map_err(at)?;
            tokens.add(&entry).map_err(at)?;
        }
        Ok(tokens)
    }

    fn add(&mut self, entry: &Entry) -> Result<(), Invalid> {
        let grant = Arc::new(entry.grant());
        if self.by_name.insert(Arc::clone(&grant.identity.name), Arc::clone(&grant)).is_some() {
            return Err(Invalid::new("name", format!("{} is there twice; put both digests on one line", shown(&entry.name))));
        }
        for digest in &entry.digests {
            if self.by_digest.insert(*digest, Arc::clone(&grant)).is_some() {
                return Err(Invalid::new("sha256", "a digest is there twice"));
            }
        }
        Ok(())
    }

    /// Whose token this is.
    pub fn of_token(&self, token: &[u8]) -> Option<&Arc<Grant>> {
        self.by_digest.get(&digest(token))
    }

    /// What the caller of that name may do, whatever has proven the name.
    pub fn named(&self, name: &str) -> Option<&Arc<Grant>> {
        self.by_name.get(name)
    }

    /// How many callers are known.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// Whether a line says nothing.
pub fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with("//")
}

/// A line of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Whose it is.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// With which services; `None`: all.
    pub service_prefix: Option<String>,
    /// How many instances it may have; `None`: as many as fit.
    pub max_instances: Option<usize>,
    /// Of its tokens; none for a caller that is known by its certificate alone.
    pub digests: Vec<Digest>,
}

const KEYS: [&str; 5] = ["name", "scopes", "servicePrefix", "maxInstances", "sha256"];

impl Entry {
    /// Reads a line.
    ///
    /// # Errors
    /// [`Invalid`] naming the key.
    pub fn parse(line: &str) -> Result<Self, Invalid> {
        // What a parser says of a line may repeat a part of it.
        let fields: Map<String, Value> =
            serde_json::from_str(line).map_err(|_| Invalid::new("entry", "is not a JSON object on one line"))?;
        if let Some(key) = fields.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let hint = closest(key, KEYS).map_or(String::new(), |near| format!("; did you mean {near}?"));
            return Err(Invalid::new("entry", format!("has a key that is none{hint}")));
        }
        let text = |key: &'static str| match fields.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Invalid::new(key, "is not text")),
        };
        let name = text("name")?.ok_or_else(|| Invalid::new("name", "is missing"))?;
        let max_instances = match fields.get("maxInstances") {
            None => None,
            Some(number) => {
                let number = number.as_u64().and_then(|number| usize::try_from(number).ok());
                Some(number.ok_or_else(|| Invalid::new("maxInstances", "is not a whole number"))?)
            }
        };
        let scopes = list(&fields, "scopes")?.ok_or_else(|| Invalid::new("scopes", "is missing"))?;
        let scopes = scopes.into_iter().map(scope).collect::<Result<_, _>>()?;
        let digests = list(&fields, "sha256")?.unwrap_or_default().into_iter();
        let digests: Vec<Digest> = digests
            .map(|text| from_hex(text).ok_or_else(|| Invalid::new("sha256", "is not 64 hexadecimal digits; the file holds no tokens")))
            .collect::<Result<_, _>>()?;
        Self { name, scopes, service_prefix: text("servicePrefix")?, max_instances, digests }.checked()
    }

    /// This entry, if all that it says may be said.
    ///
    /// # Errors
    /// [`Invalid`] naming the key.
    pub fn checked(self) -> Result<Self, Invalid> {
        // A name goes into header fields, logs and rules. It may be that of a certificate, such as spiffe://mesh/a.
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._:/+=@~-".contains(&b);
        if self.name.is_empty() || self.name.len() > 255 || !self.name.bytes().all(fits) {
            return Err(Invalid::new("name", format!("{} is no name: 1 to 255 of A-Z a-z 0-9 . _ : / + = @ ~ -", shown(&self.name))));
        }
        if let Some(prefix) = &self.service_prefix {
            ServiceName::new(prefix).map_err(|fault| Invalid::new("servicePrefix", fault.why))?;
        }
        if self.scopes.is_empty() {
            return Err(Invalid::new("scopes", "is empty; use read, register, invoke or admin"));
        }
        if self.digests.len() > MOST_PER_NAME {
            return Err(Invalid::new("sha256", format!("{} tokens of one name are too many; use at most 2", self.digests.len())));
        }
        Ok(self)
    }

    /// What it grants.
    fn grant(&self) -> Grant {
        Grant {
            identity: Identity {
                name: self.name.as_str().into(),
                source: if self.digests.is_empty() { Source::Certificate } else { Source::Token },
            },
            scopes: self.scopes.iter().fold(Scopes::default(), |all, scope| all.with(*scope)),
            service_prefix: self.service_prefix.as_deref().map(Into::into),
            max_instances: self.max_instances,
        }
    }

    /// The line for the file.
    pub fn line(&self) -> String {
        let mut fields = Map::new();
        fields.insert("name".to_owned(), json!(self.name));
        fields.insert("scopes".to_owned(), self.scopes.iter().map(|scope| scope.word()).collect());
        if let Some(prefix) = &self.service_prefix {
            fields.insert("servicePrefix".to_owned(), json!(prefix));
        }
        if let Some(most) = self.max_instances {
            fields.insert("maxInstances".to_owned(), json!(most));
        }
        fields.insert("sha256".to_owned(), self.digests.iter().map(hex).collect());
        Value::Object(fields).to_string()
    }
}

/// A scope by its word.
///
/// # Errors
/// [`Invalid`] listing the words.
pub fn scope(word: &str) -> Result<Scope, Invalid> {
    let found = Scope::GRANTED.into_iter().find(|scope| scope.word() == word);
    found.ok_or_else(|| Invalid::new("scopes", format!("{} is not one of read, register, invoke, admin", shown(word))))
}

/// A text, or several.
fn list<'a>(fields: &'a Map<String, Value>, key: &'static str) -> Result<Option<Vec<&'a str>>, Invalid> {
    let fault = || Invalid::new(key, "is not a list of texts");
    match fields.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(vec![text])),
        Some(Value::Array(all)) => all.iter().map(|text| text.as_str().ok_or_else(fault)).collect::<Result<_, _>>().map(Some),
        Some(_) => Err(fault()),
    }
}

fn hex(digest: &Digest) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Digest> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).filter_map(|pair| Some(pair.first()? << 4 | pair.last()?)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(token: &str) -> Entry {
        Entry {
            name: "ci".to_owned(),
            scopes: vec![Scope::Read, Scope::Register],
            service_prefix: Some("pay-".to_owned()),
            max_instances: Some(5),
            digests: vec![digest(token.as_bytes())],
        }
    }

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let entry = entry("secret");
        assert!(!entry.line().contains("secret"));
        assert_eq!(Entry::parse(&entry.line()), Ok(entry.clone()));
        let tokens = Tokens::parse(&format!("// who may\n\n{}\n", entry.line())).expect("valid");
        let grant = tokens.of_token(b"secret").expect("known");
        assert_eq!((&*grant.identity.name, grant.identity.source, grant.max_instances), ("ci", Source::Token, Some(5)));
        assert!(tokens.named("ci").is_some() && tokens.len() == 1);
        for other in [&b"secre"[..], b"secret ", b"", b"Secret"] {
            assert!(tokens.of_token(other).is_none());
        }
    }

    #[test]
    fn two_tokens_of_one_name_are_valid_and_a_third_is_refused() {
        let mut entry = entry("old");
        entry.digests.push(digest(b"new"));
        let tokens = Tokens::parse(&entry.line()).expect("valid");
        assert!(tokens.of_token(b"old").is_some() && tokens.of_token(b"new").is_some());
        entry.digests.push(digest(b"newest"));
        assert_eq!(entry.checked().expect_err("three").field, "sha256");
    }

    #[test]
    fn a_mistake_is_named_by_line_and_key_and_repeats_no_secret() {
        let fault = |line: &str| Tokens::parse(&format!("\n{line}")).err().unwrap_or_else(|| panic!("{line}")).to_string();
        let good = digest(b"x");
        let good = hex(&good);
        for (line, said) in [
            ("hunter2".to_owned(), "line 2: entry: is not a JSON object"),
            ("[1]".to_owned(), "line 2: entry: is not a JSON object"),
            (r#"{"hunter2":1}"#.to_owned(), "line 2: entry: has a key that is none"),
            (r#"{"scopes":["read"]}"#.to_owned(), "line 2: name: is missing"),
            (r#"{"name":"a\nb","scopes":["read"]}"#.to_owned(), "line 2: name: "),
            (r#"{"name":"a","scopes":["root"]}"#.to_owned(), "line 2: scopes: \"root\" is not one of read"),
            (r#"{"name":"a","scopes":[]}"#.to_owned(), "line 2: scopes: is empty"),
            (r#"{"name":"a"}"#.to_owned(), "line 2: scopes: is missing"),
            (r#"{"name":"a","scopes":"read","sha256":"hunter2"}"#.to_owned(), "line 2: sha256: is not 64 hexadecimal digits"),
            (r#"{"name":"a","scopes":"read","maxInstances":-1}"#.to_owned(), "line 2: maxInstances: "),
            (r#"{"name":"a","scopes":"read","servicePrefix":""}"#.to_owned(), "line 2: servicePrefix: "),
            (format!(r#"{{"name":"a","scopes":"read","sha256":["{good}","{good}"]}}"#), "line 2: sha256: a digest is there twice"),
        ] {
            let said_of_it = fault(&line);
            assert!(said_of_it.starts_with(said) && !said_of_it.contains("hunter2"), "{line}: {said_of_it}");
        }
        let twice = "{\"name\":\"a\",\"scopes\":\"read\"}\n{\"name\":\"a\",\"scopes\":\"read\"}";
        assert!(fault(twice).starts_with("line 3: name: \"a\" is there twice"));
    }
}

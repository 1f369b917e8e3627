//! The fields of a JSON object, taken one by one, so that each mistake is named by its field.
//!
//! Accepts camelCase and snake_case names, ignores fields nobody takes, refuses a field given twice, and refuses an array where serde would
//! take one for a struct.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::settings::camel;
use crate::model::{Invalid, shown};

/// The fields of one object; values are kept byte for byte.
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Reads a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Invalid> {
        let fault = |why: String| Invalid::new("body", why);
        if body.trim_ascii().is_empty() {
            return Err(fault("is empty; a JSON object is expected".to_owned()));
        }
        let text = std::str::from_utf8(body).map_err(|_| fault("is not UTF-8".to_owned()))?;
        if !text.trim_ascii_start().starts_with('{') {
            return Err(fault("is not a JSON object".to_owned()));
        }
        if is_too_deep(text) {
            return Err(fault(format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        let fields: Self = serde_json::from_str(text).map_err(|error| fault(format!("is not valid JSON: {error}")))?;
        Ok(fields)
    }

    /// The raw value of a field, unless it is absent or null.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value).filter(|value| value.get() != "null")
    }

    /// An optional field.
    pub(super) fn optional<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, Invalid> {
        self.raw(name).map(|raw| serde_json::from_str(raw.get()).map_err(|error| wrong(name, raw.get(), &error))).transpose()
    }

    /// A required field.
    pub(super) fn required<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, Invalid> {
        self.optional(name)?.ok_or_else(|| Invalid::new(name, "is required"))
    }

    /// An optional text, parsed further.
    pub(super) fn parsed<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Result<Option<T>, Invalid> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let Text(text) = serde_json::from_str(raw.get()).map_err(|error| wrong(name, raw.get(), &error))?;
        parse(&text).map(Some).map_err(|fault| Invalid::new(name, fault.why))
    }

    /// A required text, parsed further.
    pub(super) fn required_parsed<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Result<T, Invalid> {
        self.parsed(name, parse)?.ok_or_else(|| Invalid::new(name, "is required"))
    }
}

/// Nesting allowed anywhere in a body, kept or passed on: what serde_json itself allows where it reads.
const MAX_DEPTH: usize = 128;

/// Whether brackets are nested deeper than allowed; those inside strings do not count.
fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// What is said of a key that is there twice, which names nothing but the key.
const TWICE: &str = " is given twice";
/// Fields that are sent on: what is in them may be a secret, and whoever gets a fault may log it.
const SENT_ON: [&str; 2] = ["headers", "body"];

/// A value of the wrong type; serde's word for it, without the position, which is that of the value alone.
fn wrong(name: &'static str, value: &str, error: &serde_json::Error) -> Invalid {
    let text = error.to_string();
    let why = text.rsplit_once(" at line ").map_or(&*text, |(why, _)| why);
    if why.ends_with(TWICE) {
        return Invalid::new(name, why);
    }
    if SENT_ON.contains(&name) {
        let why = why.rsplit_once(", expected ").map_or_else(|| "does not fit".to_owned(), |(_, wanted)| format!("is not {wanted}"));
        return Invalid::new(name, why);
    }
    Invalid::new(name, format!("{} does not fit: {why}", shown(value)))
}

/// A text, borrowed from the body unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Self::Value = Vec::new();
                while let Some((Text(key), value)) = map.next_entry::<Text<'_>, &RawValue>()? {
                    let key = if key.contains('_') { Cow::Owned(camel(&key)) } else { key };
                    if fields.iter().any(|(other, _)| *other == key) {
                        return Err(serde::de::Error::custom(format!("the field {} is given twice", shown(&key))));
                    }
                    // So that looking for a field given twice stays cheap whatever is sent.
                    if fields.len() >= 256 {
                        return Err(serde::de::Error::custom("more than 256 fields"));
                    }
                    fields.push((key, value));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object).map(Fields)
    }
}

/// An object whose keys are anybody's choice. As in every body, none is there twice.
pub(super) struct Entries<V>(pub(super) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Object<V> {
            type Value = BTreeMap<String, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Entries::read(map)
            }
        }
        deserializer.deserialize_map(Object(PhantomData)).map(Self)
    }
}

impl<'de, V: Deserialize<'de>> Entries<V> {
    fn read<A: MapAccess<'de>>(mut map: A) -> Result<BTreeMap<String, V>, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.contains_key(&key) {
                return Err(serde::de::Error::custom(format!("{}{TWICE}", shown(&key))));
            }
            entries.insert(key, map.next_value()?);
        }
        Ok(entries)
    }
}

/// Any JSON in which no object has a key twice.
pub(super) struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self, A::Error> {
        Entries::<Self>::read(map).map(|_| self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(body: &str) -> String {
        Fields::parse(body.as_bytes()).err().expect(body).to_string()
    }

    #[test]
    fn fields_are_found_in_either_spelling_and_strange_ones_ignored() {
        let fields = Fields::parse(br#" {"health_check_url": "u", "colour": [1], "x": null} "#).expect("valid");
        assert_eq!(fields.required::<String>("healthCheckUrl").expect("there"), "u");
        assert_eq!(fields.optional::<u32>("x").expect("null is absent"), None);
    }

    #[test]
    fn whatever_is_not_an_object_is_refused() {
        for body in ["", "  ", "[]", "[\"svc\",\"/x\"]", "null", "\"{}\"", "{", "{} {}", "{\"a\":1,}", "\u{feff}{}", "{\"a\":NaN}"] {
            assert!(fault(body).starts_with("body: "), "{body}");
        }
        for depth in [128, 100_000] {
            let deep = format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
            assert!(fault(&deep).contains("deeper than 128"), "{depth}");
        }
        let fine = format!("{{\"a\":{}1{},\"b\":\"{}\"}}", "[".repeat(127), "]".repeat(127), "[\\\"".repeat(1000));
        assert!(Fields::parse(fine.as_bytes()).is_ok());
        assert!(fault(r#"{"timeoutMs":1,"timeout_ms":2}"#).contains("given twice"));
    }

    #[test]
    fn a_wrong_type_is_named_with_its_field() {
        let fields = Fields::parse(br#"{"port": "80"}"#).expect("an object");
        let error = fields.required::<u16>("port").expect_err("a string");
        assert_eq!(error.field, "port");
        assert!(!error.why.contains("line"), "{error}");
    }

    #[test]
    fn numbers_inside_values_are_kept_byte_for_byte() {
        let fields = Fields::parse(br#"{"body": {"n": 123456789012345678901234567890.10}}"#).expect("valid");
        assert_eq!(fields.raw("body").map(RawValue::get), Some(r#"{"n": 123456789012345678901234567890.10}"#));
    }
}

//! Text from strangers, made safe to show, and the nearest word to a mistyped one.

use std::borrow::Cow;
use std::fmt::Write;

/// How much of a stranger's text an error message or a log line repeats.
const SHOWN: usize = 64;

/// Whether a character can speak to a terminal, hides, or turns the direction of writing.
pub fn is_unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` in quotes, control characters escaped and cut after 64 characters, safe in a log line or an error message.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(SHOWN) + 2);
    out.push('"');
    for c in text.chars().take(SHOWN) {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if is_unseen(c) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

/// A URL as [`shown`], without the user and the password that stand in it: messages are read by more people than settings.
pub fn shown_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |end| rest.split_at(end));
    match authority.rsplit_once('@') {
        Some((_, host)) if scheme.is_empty() => shown(&format!("…@{host}{path}")),
        Some((_, host)) => shown(&format!("{scheme}://…@{host}{path}")),
        None => shown(url),
    }
}

/// `text` on one line: what is unseen escaped, and cut after `most` characters. What is fine stays as it is.
pub(crate) fn on_one_line(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most && !text.contains(is_unseen) {
        return text.into();
    }
    let mut out = String::new();
    for c in text.chars().take(most) {
        if is_unseen(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out.into()
}

/// The one of `words` nearest to `typed`, when it is near enough to be meant.
pub fn closest<'a>(typed: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > SHOWN {
        // No word is as long; and comparing takes as long as it is.
        return None;
    }
    let limit = (typed.chars().count() / 3).max(2);
    words
        .into_iter()
        .map(|word| (distance(&typed.to_lowercase(), &word.to_lowercase()), word))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Levenshtein distance (Wagner and Fischer, 1974, with one row).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let value = (diagonal + usize::from(from != *to)).min(*cell + 1).min(left + 1);
            diagonal = *cell;
            *cell = value;
            left = value;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_repeats_a_password_of_a_url() {
        for (url, text) in [
            ("http://a:hunter2@h:1/x@y?z", "\"http://…@h:1/x@y?z\""),
            ("https://hunter2@@h", "\"https://…@h\""),
            ("a:hunter2@h:1", "\"…@h:1\""),
            ("http://h/x@y", "\"http://h/x@y\""),
            ("h", "\"h\""),
        ] {
            assert_eq!(shown_url(url), text);
        }
    }

    #[test]
    fn strange_text_is_shown_on_one_line_and_cut() {
        assert_eq!(shown("a\n\u{1b}[31m\"b\""), "\"a\\u{a}\\u{1b}[31m\\\"b\\\"\"");
        assert!(shown(&"x".repeat(1000)).chars().count() < 70);
    }

    #[test]
    fn a_fault_that_repeats_what_was_sent_stays_on_its_line() {
        assert_eq!(on_one_line("unknown field `a\nb`", 100), "unknown field `a\\nb`");
        assert_eq!(on_one_line("fine: \u{e9} \u{2013} \u{201c}x\u{201d}", 100), "fine: \u{e9} \u{2013} \u{201c}x\u{201d}");
        assert_eq!(on_one_line("a\u{2066}b\u{9b}", 100), "a\\u{2066}b\\u{9b}");
        assert_eq!(on_one_line("abcdef", 3), "abc…");
    }

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        let words = ["maxRetries", "timeoutMs", "workers"];
        assert_eq!(closest("maxRetires", words), Some("maxRetries"));
        assert_eq!(closest("worker", words), Some("workers"));
        assert_eq!(closest("colour", words), None);
        assert_eq!(closest(&"maxRetries".repeat(7), words), None);
    }

    #[test]
    fn distance_counts_insertions_deletions_and_changes() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}

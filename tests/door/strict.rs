//! A second reader of HTTP/1.1, written from RFC 9112 without a glance at the first, slow and plain: what it finds unacceptable must not be
//! accepted, and where it sees the end of a request nobody may see another.

/// What the beginning of some bytes is.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    /// A request, so long.
    Request { length: usize, id: Option<String> },
    /// It may become one.
    Unfinished,
    /// Not a request.
    Bad(&'static str),
}

use Reading::{Bad, Request, Unfinished};

/// Reads one request, its body included.
pub(crate) fn read(bytes: &[u8]) -> Reading {
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let bytes = &bytes[skipped..];
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Unfinished };
    let Ok(head) = head(&bytes[..end]) else { return Bad("the head") };
    let body = &bytes[end + 4..];
    let taken = match (head.length, head.chunked) {
        (Some(_), true) => return Bad("two framings"),
        (None, false) => 0,
        (Some(length), false) if (length as usize) <= body.len() => length as usize,
        (Some(_), false) => return Unfinished,
        (None, true) => match chunks(body) {
            Ok(Some(taken)) => taken,
            Ok(None) => return Unfinished,
            Err(()) => return Bad("the chunks"),
        },
    };
    Request { length: skipped + end + 4 + taken, id: head.id }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

struct Head {
    length: Option<u64>,
    chunked: bool,
    id: Option<String>,
}

fn head(bytes: &[u8]) -> Result<Head, ()> {
    let ok = |holds: bool| if holds { Ok(()) } else { Err(()) };
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(at) = find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    // Line ends and zero bytes have no place inside a line.
    ok(lines.iter().all(|line| !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))))?;
    let words: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, version] = words.as_slice() else { return Err(()) };
    ok(is_token(method))?;
    ok(!target.is_empty() && target.iter().all(|byte| (0x21..=0x7e).contains(byte) && *byte != b'#'))?;
    ok(matches!(*version, b"HTTP/1.1" | b"HTTP/1.0"))?;
    let (mut hosts, mut head) = (0, Head { length: None, chunked: false, id: None });
    for line in &lines[1..] {
        let at = line.iter().position(|byte| *byte == b':').ok_or(())?;
        let (name, value) = (line[..at].to_ascii_lowercase(), line[at + 1..].trim_ascii());
        ok(is_token(&name) && line[at..].iter().all(|byte| is_text(*byte)))?;
        match name.as_slice() {
            b"host" => hosts += 1,
            b"content-length" => {
                ok(head.length.is_none() && !value.is_empty() && value.iter().all(u8::is_ascii_digit))?;
                let length = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
                head.length = Some(length.filter(|length| *length < 1 << 63).ok_or(())?);
            }
            b"transfer-encoding" => {
                ok(!head.chunked && value.eq_ignore_ascii_case(b"chunked") && *version == b"HTTP/1.1")?;
                head.chunked = true;
            }
            b"x-request-id" if head.id.is_none() => head.id = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
    }
    ok(hosts == 1 || hosts == 0 && *version == b"HTTP/1.0")?;
    Ok(head)
}

/// The length of a body in chunks; `None` when it is not whole.
fn chunks(bytes: &[u8]) -> Result<Option<usize>, ()> {
    let mut at = 0;
    loop {
        let Some(line_end) = find(&bytes[at..], b"\n") else {
            // So much of a line cannot become a good one.
            return if bytes.len() - at > 4096 { Err(()) } else { Ok(None) };
        };
        let line = bytes[at..at + line_end].strip_suffix(b"\r").ok_or(())?;
        let (size, extension) = match line.iter().position(|byte| *byte == b';') {
            Some(at) => line.split_at(at),
            None => (line, &b""[..]),
        };
        if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) || !extension.iter().all(|byte| is_text(*byte)) {
            return Err(());
        }
        let size = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok()).ok_or(())?;
        at += line_end + 1;
        if size == 0 {
            break;
        }
        let end = at.checked_add(size).ok_or(())?;
        match bytes.get(end..end.saturating_add(2)) {
            Some(b"\r\n") => at = end + 2,
            Some(_) => return Err(()),
            None if bytes.get(end).is_some_and(|byte| *byte != b'\r') => return Err(()),
            None => return Ok(None),
        }
    }
    loop {
        let Some(line_end) = find(&bytes[at..], b"\n") else { return Ok(None) };
        let line = bytes[at..at + line_end].strip_suffix(b"\r").ok_or(())?;
        at += line_end + 1;
        if line.is_empty() {
            return Ok(Some(at));
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(())?;
        if !is_token(&line[..colon]) || !line[colon..].iter().all(|byte| is_text(*byte)) {
            return Err(());
        }
    }
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

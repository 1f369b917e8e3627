//! What holds of every input: nothing panics, nothing beyond the input is taken, the pieces in which it comes do not matter, and what is
//! accepted, written out anew, is read as the same.

use weft::edge::http1::{Body, Fault, Framing, Head, Limits, RequestHead, ResponseHead};

const LIMITS: Limits = Limits { head: 16 * 1024, target: 8 * 1024 };

/// The head of a request.
pub fn request_head(input: &[u8]) {
    let parse = |input: &[u8]| RequestHead::default().parse(input, LIMITS);
    let whole = parse(input);
    the_pieces_do_not_matter(input, whole, parse);
    let mut head = RequestHead::default();
    let Ok(Some(length)) = head.parse(input, LIMITS) else { return };
    assert!(length <= input.len(), "{length} of {}", input.len());
    let (again, anew) = (written(&head), &mut RequestHead::default());
    // A path may have been said shorter than it is written anew.
    if again.len() > LIMITS.head || head.target().len() + head.authority().len() + 8 > LIMITS.target {
        return;
    }
    assert_eq!(anew.parse(&again, LIMITS), Ok(Some(again.len())), "{:?}", String::from_utf8_lossy(&again));
    assert_eq!((anew.method(), anew.target(), anew.authority()), (head.method(), head.target(), head.authority()));
    assert_eq!((anew.framing(), anew.persists()), (head.framing(), head.persists()));
    assert_eq!((anew.expects_continue(), anew.is_1_0()), (head.expects_continue(), head.is_1_0()));
    assert!(anew.head.fields().eq(head.head.fields()));
    // Used again, it has forgotten what it was.
    assert_eq!(head.parse(&again, LIMITS), Ok(Some(again.len())));
    assert!(anew.head.fields().eq(head.head.fields()));
    assert_eq!((anew.framing(), anew.persists(), anew.expects_continue()), (head.framing(), head.persists(), head.expects_continue()));
}

/// The head of an answer.
pub fn response_head(input: &[u8]) {
    for to_head in [false, true] {
        let parse = |input: &[u8]| ResponseHead::default().parse(input, to_head);
        let whole = parse(input);
        the_pieces_do_not_matter(input, whole, parse);
        let mut head = ResponseHead::default();
        let Ok(Some(length)) = head.parse(input, to_head) else { continue };
        assert!(length <= input.len(), "{length} of {}", input.len());
        assert!((100..=599).contains(&head.status));
        let minor = if input.starts_with(b"HTTP/1.0") { 0 } else { 1 };
        let mut again = format!("HTTP/1.{minor} {} ", head.status).into_bytes();
        again.extend_from_slice(head.phrase());
        write_fields(&mut again, &head.head);
        if again.len() > LIMITS.head {
            continue;
        }
        let mut anew = ResponseHead::default();
        assert_eq!(anew.parse(&again, to_head), Ok(Some(again.len())), "{:?}", String::from_utf8_lossy(&again));
        assert_eq!((anew.status, anew.framing(), anew.persists()), (head.status, head.framing(), head.persists()));
        assert_eq!((anew.phrase(), anew.keeps_alive(), anew.is_interim()), (head.phrase(), head.keeps_alive(), head.is_interim()));
        assert!(anew.head.fields().eq(head.head.fields()));
    }
}

/// A body in chunks, of an answer or of a request.
pub fn chunks(input: &[u8]) {
    for begin in [Body::new as fn(Framing) -> Body, Body::of_request] {
        chunks_of(begin, input);
    }
}

fn chunks_of(begin: fn(Framing) -> Body, input: &[u8]) {
    let decode = |input: &[u8], step: usize| decode(begin(Framing::Chunked), input, step);
    let whole = decode(input, input.len().max(1));
    for step in [1, 2, 3, 7, 64] {
        assert_eq!(decode(input, step), whole, "in pieces of {step}");
    }
    let passed = begin(Framing::Chunked).pass(input);
    match whole.end {
        Err(fault) => assert_eq!(passed, Err(fault)),
        Ok(is_done) => {
            assert_eq!(passed, Ok(whole.taken));
            assert!(whole.taken <= input.len() && (is_done || whole.taken == input.len()));
            if is_done {
                assert_eq!(plainly(input), Some((whole.data.clone(), whole.taken)), "as its definition reads");
                let mut again = format!("{:x}\r\n", whole.data.len()).into_bytes();
                again.extend_from_slice(&whole.data);
                again.extend_from_slice(if whole.data.is_empty() { b"\r\n" } else { b"\r\n0\r\n\r\n" });
                let anew = decode(&again, again.len());
                assert_eq!((anew.data, anew.taken, anew.end), (whole.data, again.len(), Ok(true)));
            }
        }
    }
}

/// The data of a body in chunks that is here whole, and how long the body is, by its definition (RFC 9112 §7.1).
fn plainly(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| input.get(at..)?.windows(2).position(|end| end == b"\r\n").and_then(|length| input.get(at..at + length));
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let size = line(at)?;
        at += size.len() + 2;
        let digits = size.split(|byte| *byte == b';').next().filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        data.extend_from_slice(input.get(at..at.checked_add(size)?)?);
        at += size;
        line(at).filter(|rest| rest.is_empty())?;
        at += 2;
    }
    loop {
        let trailer = line(at)?;
        at += trailer.len() + 2;
        if trailer.is_empty() {
            return Some((data, at));
        }
    }
}

/// What came of a body: its data, how much of the input it took, and whether it ended or why it could not.
#[derive(PartialEq, Eq, Debug)]
struct Decoded {
    data: Vec<u8>,
    taken: usize,
    end: Result<bool, Fault>,
}

fn decode(mut body: Body, input: &[u8], step: usize) -> Decoded {
    let (mut data, mut taken) = (Vec::new(), 0);
    for part in input.chunks(step) {
        let mut rest = part;
        while !body.is_done() && !rest.is_empty() {
            match body.take(rest) {
                Ok(piece) => {
                    assert!(piece.taken > 0 && piece.taken <= rest.len(), "it goes on, and not too far");
                    assert!(piece.data.end <= piece.taken, "data is part of what is taken");
                    data.extend_from_slice(&rest[piece.data]);
                    taken += piece.taken;
                    rest = &rest[piece.taken..];
                }
                // How much of a malformed body was looked at depends on the pieces, and means nothing.
                Err(fault) => return Decoded { data, taken: 0, end: Err(fault) },
            }
        }
    }
    Decoded { data, taken, end: Ok(body.is_done()) }
}

/// A head that comes in pieces is decided at some point, and from there on as it is when it comes whole.
fn the_pieces_do_not_matter(input: &[u8], whole: Result<Option<usize>, Fault>, parse: impl Fn(&[u8]) -> Result<Option<usize>, Fault>) {
    let stride = 1 + input.len() / 256;
    let mut decided = false;
    for length in (0..input.len()).step_by(stride) {
        match (parse(&input[..length]), whole) {
            (Ok(None), _) => assert!(!decided, "undecided again after {length} bytes"),
            (Ok(Some(taken)), Ok(Some(in_whole))) if taken == in_whole && taken <= length => decided = true,
            // Which of several faults is found first may differ.
            (Err(_), Err(_)) => decided = true,
            (part, whole) => panic!("{part:?} after {length} bytes, and {whole:?} when it comes whole"),
        }
    }
}

fn written(head: &RequestHead) -> Vec<u8> {
    let host = head.head.all("host").next().unwrap_or_default();
    let is_the_hosts = head.authority().as_bytes() == host;
    let mut out = format!("{} ", head.method()).into_bytes();
    if head.method() == "CONNECT" && head.target().is_empty() {
        out.extend_from_slice(head.authority().as_bytes());
    } else {
        if !is_the_hosts {
            out.extend_from_slice(format!("http://{}", head.authority()).as_bytes());
        }
        out.extend_from_slice(head.target().as_bytes());
    }
    out.extend_from_slice(if head.is_1_0() { b" HTTP/1.0" } else { b" HTTP/1.1" });
    write_fields(&mut out, &head.head);
    out
}

fn write_fields(out: &mut Vec<u8>, head: &Head) {
    out.extend_from_slice(b"\r\n");
    for (name, value) in head.fields() {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

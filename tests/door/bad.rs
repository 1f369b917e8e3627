//! Requests that are not one, or not one request: their bytes, and what they are answered.

/// A bad request.
pub(crate) struct Vector {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) status: u16,
}

/// Requests with a bad head, each beginning with this method and target.
pub(crate) fn heads(line: &str) -> Vec<Vector> {
    let with = |fields: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let all: Vec<(&str, String, u16)> = vec![
        ("no Host", format!("{line} HTTP/1.1\r\n\r\n"), 400),
        ("two Hosts", with("Host: localhost\r\n"), 400),
        ("two different Hosts", with("Host: elsewhere\r\n"), 400),
        ("a Host with a path", format!("{line} HTTP/1.1\r\nHost: localhost/x\r\n\r\n"), 400),
        ("a Connection that names a hundred fields and more", with(&format!("Connection: {}x\r\n", "x,".repeat(100))), 400),
        ("a Host with a user", format!("{line} HTTP/1.1\r\nHost: a@localhost\r\n\r\n"), 400),
        ("length and chunks", with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
        ("chunks and length", with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n") + "0\r\n\r\n", 400),
        ("an unknown coding", with("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n", 400),
        ("identity", with("Transfer-Encoding: identity\r\n"), 400),
        ("chunked, then identity", with("Transfer-Encoding: chunked, identity\r\n") + "0\r\n\r\n", 400),
        ("identity, then chunked", with("Transfer-Encoding: identity, chunked\r\n") + "0\r\n\r\n", 400),
        ("gzip, then chunked", with("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n", 400),
        ("chunked twice in one field", with("Transfer-Encoding: chunked, chunked\r\n") + "0\r\n\r\n", 400),
        ("chunked in two fields", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
        ("chunked and identity in two fields", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n") + "0\r\n\r\n", 400),
        ("chunked in quotes", with("Transfer-Encoding: \"chunked\"\r\n") + "0\r\n\r\n", 400),
        ("chunked with a parameter", with("Transfer-Encoding: chunked;q=1\r\n") + "0\r\n\r\n", 400),
        ("chunked behind a vertical tab", with("Transfer-Encoding:\u{b}chunked\r\n") + "0\r\n\r\n", 400),
        ("chunked behind a comma", with("Transfer-Encoding: ,chunked\r\n") + "0\r\n\r\n", 400),
        ("an empty coding", with("Transfer-Encoding:\r\n"), 400),
        ("a coding folded", with("Transfer-Encoding:\r\n chunked\r\n") + "0\r\n\r\n", 400),
        ("a coding with a blank before the colon", with("Transfer-Encoding : chunked\r\n") + "0\r\n\r\n", 400),
        ("a coding with a tab before the colon", with("Transfer-Encoding\t: chunked\r\n") + "0\r\n\r\n", 400),
        ("chunks in HTTP/1.0", format!("{line} HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("two different lengths", with("Content-Length: 3\r\nContent-Length: 4\r\n") + "abc", 400),
        ("the same length twice", with("Content-Length: 3\r\nContent-Length: 3\r\n") + "abc", 400),
        ("a list of lengths", with("Content-Length: 3, 30\r\n") + "abc", 400),
        ("a list of equal lengths", with("Content-Length: 3, 3\r\n") + "abc", 400),
        ("a length with a letter", with("Content-Length: 35x\r\n") + "abc", 400),
        ("a negative length", with("Content-Length: -1\r\n"), 400),
        ("a length with a plus", with("Content-Length: +3\r\n") + "abc", 400),
        ("a hexadecimal length", with("Content-Length: 0x3\r\n") + "abc", 400),
        ("a length with a dot", with("Content-Length: 3.0\r\n") + "abc", 400),
        ("a length with a blank inside", with("Content-Length: 1 0\r\n") + "abc", 400),
        ("an empty length", with("Content-Length:\r\n"), 400),
        ("a length of 2^63", with("Content-Length: 9223372036854775808\r\n"), 400),
        ("a length of 2^64", with("Content-Length: 18446744073709551616\r\n"), 400),
        ("a length of 2^64 and 3", with("Content-Length: 18446744073709551619\r\n") + "abc", 400),
        ("a length of forty digits", with(&format!("Content-Length: {}\r\n", "9".repeat(40))), 400),
        ("a length with a blank before the colon", with("Content-Length : 3\r\n") + "abc", 400),
        ("a blank before a colon", with("X-A : b\r\n"), 400),
        ("a folded field", with("X-A: b\r\n c\r\n"), 400),
        ("a blank before the first field", format!("{line} HTTP/1.1\r\n Host: localhost\r\n\r\n"), 400),
        ("a blank line of blanks", with(" \r\n"), 400),
        ("bare line feeds", format!("{line} HTTP/1.1\nHost: localhost\n\n"), 400),
        ("a bare line feed at the end of a field", with("X-A: b\nX-C: d\r\n"), 400),
        ("a bare line feed before the end of the head", format!("{line} HTTP/1.1\r\nHost: localhost\r\n\n"), 400),
        ("a line feed that hides a coding", with("X-A: b\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
        ("a carriage return in a value", with("X-A: b\rc\r\n"), 400),
        ("a carriage return that hides a coding", with("X-A: b\rTransfer-Encoding: chunked\r\n"), 400),
        ("two carriage returns", with("X-A: b\r\r\n"), 400),
        ("a zero byte in a value", with("X-A: b\0c\r\n"), 400),
        ("a zero byte in a name", with("X-\0A: b\r\n"), 400),
        ("a bell in a value", with("X-A: b\u{7}c\r\n"), 400),
        ("brackets in a name", with("X[]: b\r\n"), 400),
        ("a name that is not ASCII", with("X-\u{e9}: b\r\n"), 400),
        ("an empty name", with(": b\r\n"), 400),
        ("no colon", with("X-A\r\n"), 400),
        ("an expectation that is none", with("Expect: 200-ok\r\n"), 400),
        ("four words in the first line", format!("{line} x HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("a blank at the end of the first line", format!("{line} HTTP/1.1 \r\nHost: localhost\r\n\r\n"), 400),
        ("a blank before the method", format!(" {line} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("two blanks after the method", format!("{} HTTP/1.1\r\nHost: localhost\r\n\r\n", line.replacen(' ', "  ", 1)), 400),
        ("a tab after the method", format!("{} HTTP/1.1\r\nHost: localhost\r\n\r\n", line.replacen(' ', "\t", 1)), 400),
        ("two blanks before the version", format!("{line}  HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("no version", format!("{line}\r\nHost: localhost\r\n\r\n"), 400),
        ("another protocol", format!("{line} HTCPCP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("a lower-case version", format!("{line} http/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("HTTP/1.9", format!("{line} HTTP/1.9\r\nHost: localhost\r\n\r\n"), 505),
        ("HTTP/2.0", format!("{line} HTTP/2.0\r\nHost: localhost\r\n\r\n"), 505),
        ("HTTP/0.9 with a version", format!("{line} HTTP/0.9\r\nHost: localhost\r\n\r\n"), 505),
        ("a zero byte in the path", format!("{line}\0 HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("a fragment", format!("{line}#x HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("a path that is not ASCII", format!("{line}\u{e9} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        ("no slash before the path", format!("{} HTTP/1.1\r\nHost: localhost\r\n\r\n", line.replacen('/', "", 1)), 400),
        ("two empty lines first", format!("\r\n\r\n{}", with("")), 400),
        ("a line feed first", format!("\n{}", with("")), 400),
        ("a long path", format!("{line}{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(8 * 1024)), 414),
        ("a path of 1 MiB", format!("{line}{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1 << 20)), 414),
        ("a field of 20 KiB", with(&format!("X-A: {}\r\n", "x".repeat(20 * 1024))), 431),
        ("a field of 1 MiB", with(&format!("X-A: {}\r\n", "x".repeat(1 << 20))), 431),
        ("101 fields", with(&"X-A: b\r\n".repeat(100)), 431),
        ("5000 fields", with(&"X-A: b\r\n".repeat(4999)), 431),
    ];
    all.into_iter().map(|(name, text, status)| Vector { name, bytes: text.into_bytes(), status }).collect()
}

/// Requests whose body is malformed.
pub(crate) fn bodies(line: &str) -> Vec<Vector> {
    let chunked = |body: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let all = [
        ("a hexadecimal prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a negative size", "-1\r\nabc\r\n0\r\n\r\n"),
        ("a size with a plus", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a blank before the size", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a blank after the size", "3 \r\nabc\r\n0\r\n\r\n"),
        ("an underscore in the size", "1_0\r\nabc\r\n0\r\n\r\n"),
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("no size before an extension", ";a=b\r\nabc\r\n0\r\n\r\n"),
        ("a size above 2^64", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a size of 2^64 - 1", "ffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("a size of forty digits", "0000000000000000000000000000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("no line end after a chunk", "3\r\nabc0\r\n\r\n"),
        ("a longer chunk than said", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a bare line feed after a size", "3\nabc\r\n0\r\n\r\n"),
        ("a bare line feed after a chunk", "3\r\nabc\n0\r\n\r\n"),
        ("a bare line feed after the last size", "3\r\nabc\r\n0\n\r\n"),
        ("a bare line feed after the last chunk", "0\r\n\n"),
        ("a line feed in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("a carriage return in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("a zero byte in an extension", "3;\0\r\nabc\r\n0\r\n\r\n"),
        ("a folded trailer", "0\r\nX-A: b\r\n c\r\n\r\n"),
        ("a trailer with a blank before the colon", "0\r\nX-A : b\r\n\r\n"),
        ("a trailer without a colon", "0\r\nX-A\r\n\r\n"),
        ("a length in the trailers", "0\r\nContent-Length: 3\r\n\r\n"),
        ("a caller in the trailers", "0\r\nX-A: b\r\nX_Mesh-Caller: root\r\n\r\n"),
        ("a bare line feed in the trailers", "0\r\nX-A: b\nX-C: d\r\n\r\n"),
    ];
    let mut all: Vec<Vector> =
        all.into_iter().map(|(name, body)| Vector { name, bytes: chunked(body).into_bytes(), status: 400 }).collect();
    let extension = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(2000));
    all.push(Vector { name: "an extension of 2 KB", bytes: chunked(&extension).into_bytes(), status: 400 });
    let trailers = format!("0\r\n{}\r\n", "X-A: b\r\n".repeat(2000));
    all.push(Vector { name: "trailers of 16 KB", bytes: chunked(&trailers).into_bytes(), status: 431 });
    all
}

/// Requests that are bad whatever they are for.
pub(crate) fn everywhere() -> Vec<Vector> {
    let all: Vec<(&'static str, Vec<u8>, u16)> = vec![
        ("a method with an at sign", b"G@T /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("a method in small letters with an at sign", b"g@t /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("a zero byte in the method", b"G\0T /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("no method", b" /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("only a path", b"/health\r\n\r\n".to_vec(), 400),
        ("HTTP/0.9", b"GET /health\r\n\r\n".to_vec(), 400),
        ("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 405),
        ("CONNECT to a service", b"CONNECT users.mesh:80 HTTP/1.1\r\nHost: users.mesh\r\n\r\n".to_vec(), 405),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        ("a handshake of TLS", [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 500]].concat(), 400),
        ("a greeting of SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), 400),
        ("an asterisk that is not of OPTIONS", b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("a URL without a path", b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("a URL without a host", b"GET http:///health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("a URL with a user", b"GET http://a@localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("a URL with a query where its host should be", b"GET http://a?b/health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("a URL of another scheme", b"GET ftp://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        ("an early zero byte", b"\0GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        (
            "a length beyond every limit",
            b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9223372036854775807\r\n\r\n".to_vec(),
            413,
        ),
        ("a length of 1e9", b"POST /invoke HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n".to_vec(), 413),
        ("a length just above the limit", b"POST /invoke HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n".to_vec(), 413),
    ];
    all.into_iter().map(|(name, bytes, status)| Vector { name, bytes, status }).collect()
}

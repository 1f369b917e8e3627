//! Instances that are spoken to over TLS.

use serde_json::json;

use crate::house::House;

#[cfg(feature = "tls")]
#[test]
fn nothing_is_sent_in_the_clear_to_an_instance_that_cannot_prove_who_it_is() {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut hello = vec![0; 4096];
            let read = stream.read(&mut hello).unwrap_or(0);
            hello.truncate(read);
            // Not TLS: what a plain server says to a handshake.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
            if tell.send(hello).is_err() {
                return;
            }
        }
    });
    let house = House::with(json!({"retry": {"maxRetries": 0}}));
    let registration = json!({"id": "i", "name": "s", "host": "localhost", "port": port, "scheme": "https", "healthy": true});
    house.ask("POST", "/register", &[], registration.to_string().as_bytes()).with_status(200);

    let body = json!({"serviceName": "s", "endpoint": "/secret", "method": "POST", "body": "secret"});
    let failed = house.invoke(&body).with_status(503);
    assert_eq!(failed.reason(), "upstream_connect");
    assert!(failed.json()["error"].as_str().expect("a sentence").contains("TLS handshake failed"), "{}", failed.text());
    assert_eq!(failed.header("x-mesh-not-sent"), Some("true"));

    let hello = told.recv().expect("a connection");
    assert_eq!(hello.first(), Some(&0x16), "a TLS handshake record");
    assert!(!hello.windows(6).any(|bytes| bytes == b"secret"));
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_says_so_at_registration() {
    let house = House::new();
    let registration = json!({"id": "i", "name": "s", "host": "localhost", "port": 1, "scheme": "https"});
    let refused = house.ask("POST", "/register", &[], registration.to_string().as_bytes()).with_status(400);
    assert_eq!(refused.json()["field"], "scheme");
}

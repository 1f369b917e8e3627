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

#[cfg(feature = "tls")]
mod with_certificates {
    use serde_json::{Value, json};
    use weft::policy::upstreams;
    use weft::server::Config;
    use weft::{Builder, Mesh};

    use crate::house::House;
    use crate::support::client::Answer;
    use crate::support::eventually;
    use crate::support::papers::{Pair, Papers};
    use crate::support::sleeve::Sleeve;
    use crate::support::upstream::{Act, Upstream, answer, ok};

    fn trusting(papers: &Papers) -> upstreams::Config {
        upstreams::Config { ca_file: papers.ca.clone(), ..upstreams::Config::default() }
    }

    fn house(upstreams: upstreams::Config) -> House {
        let defaults = json!({"retry": {"maxRetries": 0}, "healthCheck": {"intervalMs": 100, "fastIntervalMs": 5}});
        House::of(Mesh::builder().defaults(defaults).upstreams(upstreams), Config::default())
    }

    fn register(house: &House, port: u16, more: &Value) {
        let mut registration = json!({"id": "i", "name": "s", "host": "localhost", "port": port, "scheme": "https"});
        registration.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        house.post("/register", &registration).with_status(200);
    }

    /// What comes of a call to an instance that shows this certificate.
    fn called(house: &House, papers: &Papers, shows: &Pair, asks: bool) -> Answer {
        let upstream = Upstream::start(|asked| ok(&asked.body));
        let sleeve = Sleeve::around(upstream.at, papers.instance(shows, asks));
        register(house, sleeve.at.port(), &json!({"healthy": true}));
        house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": "POST", "body": "a word"}))
    }

    #[test]
    fn an_instance_of_our_own_authority_is_called_on_a_connection_that_is_kept() {
        let papers = Papers::new();
        let house = house(trusting(&papers));
        for pair in [papers.issue("elliptic", "DNS:localhost"), papers.issue_rsa("rsa", "DNS:localhost")] {
            let upstream = Upstream::start(|asked| ok(asked.connection.to_string()));
            let sleeve = Sleeve::around(upstream.at, papers.instance(&pair, false));
            register(&house, sleeve.at.port(), &json!({"healthy": true}));
            for _ in 0..3 {
                house.call("s", "/").with_status(200);
            }
            assert!(upstream.connections() <= 2, "one for each event loop that had a call at most");
        }
    }

    #[test]
    fn large_bodies_pass_both_ways() {
        let papers = Papers::new();
        let house = house(trusting(&papers));
        let pair = papers.issue("instance", "DNS:localhost");
        let upstream = Upstream::start(|asked| Act::Say(answer(200, &[], &asked.body)));
        let sleeve = Sleeve::around(upstream.at, papers.instance(&pair, false));
        register(&house, sleeve.at.port(), &json!({"healthy": true}));
        let large = "0123456789".repeat(90_000);
        let answer = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": "POST", "body": large})).with_status(200);
        assert!(answer.text() == large);
    }

    #[test]
    fn a_failed_call_says_what_was_wrong_with_the_certificate() {
        let (papers, strangers) = (Papers::new(), Papers::new());
        let rows = [
            (papers.issue_expired("late", "DNS:localhost"), "its certificate has expired"),
            (papers.issue("other", "DNS:other.example"), "its certificate is for another name"),
            (strangers.issue("stranger", "DNS:localhost"), "its certificate is from an issuer that is not trusted"),
        ];
        for (pair, why) in rows {
            let house = house(trusting(&papers));
            let failed = called(&house, &papers, &pair, false).with_status(503);
            assert_eq!((failed.reason().as_str(), failed.header("x-mesh-not-sent")), ("upstream_connect", Some("true")));
            assert!(failed.text().contains(&format!("TLS handshake failed: \\\"{why}\\\"")), "{}", failed.text());
        }
        // Nobody but Mozilla's authorities is trusted unless it is said.
        let house = house(upstreams::Config::default());
        let failed = called(&house, &papers, &papers.issue("ours", "DNS:localhost"), false).with_status(503);
        assert!(failed.text().contains("its certificate is from an issuer that is not trusted"), "{}", failed.text());
    }

    #[test]
    fn the_mesh_introduces_itself_to_an_instance_that_asks() {
        let papers = Papers::new();
        let (pair, ours) = (papers.issue("instance", "DNS:localhost"), papers.issue("mesh", "DNS:mesh"));
        let introduced = upstreams::Config { cert_file: ours.cert, key_file: ours.key, ..trusting(&papers) };
        let answer = called(&house(introduced), &papers, &pair, true).with_status(200);
        assert_eq!(answer.text(), "a word");
        let failed = called(&house(trusting(&papers)), &papers, &pair, true).with_status(503);
        assert_eq!(failed.reason(), "upstream_connect");
        assert!(failed.text().contains("it wants a certificate of ours"), "{}", failed.text());
        let strangers = Papers::new();
        let strange = strangers.issue("mesh", "DNS:mesh");
        let wrong = upstreams::Config { cert_file: strange.cert, key_file: strange.key, ..trusting(&papers) };
        let failed = called(&house(wrong), &papers, &pair, true).with_status(503);
        assert!(failed.text().contains("it refused ours: "), "{}", failed.text());
    }

    /// An instance that says this to each request, all of it in one segment, and then goes on listening if it `stays`.
    fn saying(papers: &Papers, stays: bool, say: impl Fn(&mut rustls::ServerConnection) + Copy + Send + 'static) -> u16 {
        use std::io::{Read, Write};
        use std::net::TcpListener;
        use std::thread;

        let config = papers.instance(&papers.issue("instance", "DNS:localhost"), false);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut session = rustls::ServerConnection::new(config.clone()).expect("a session");
                thread::spawn(move || {
                    let mut asked = [0; 4096];
                    while rustls::Stream::new(&mut session, &mut stream).read(&mut asked).is_ok_and(|read| read > 0) {
                        say(&mut session);
                        let mut bytes = Vec::new();
                        while session.wants_write() {
                            session.write_tls(&mut bytes).expect("bytes");
                        }
                        if stream.write_all(&bytes).is_err() || !stays {
                            return;
                        }
                    }
                });
            }
        });
        port
    }

    fn say(session: &mut rustls::ServerConnection, what: &[u8]) {
        use std::io::Write;

        session.writer().write_all(what).expect("room");
    }

    #[test]
    fn what_comes_beyond_an_answer_is_never_taken_for_the_next() {
        let papers = Papers::new();
        let house = house(trusting(&papers));
        // Two records in one segment, of which the second belongs to nothing.
        let port = saying(&papers, true, |session| {
            for said in [answer(200, &[], "fine"), answer(200, &[], "poison")] {
                say(session, &said);
            }
        });
        register(&house, port, &json!({"healthy": true}));
        for _ in 0..20 {
            assert_eq!(house.call("s", "/").with_status(200).text(), "fine");
        }
    }

    /// An instance that answers without a length and ends its connection, announced or not: who is in between can end it anywhere.
    fn answering_without_a_length(papers: &Papers, announced: bool) -> u16 {
        saying(papers, false, move |session| {
            say(session, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf of it");
            if announced {
                session.send_close_notify();
            }
        })
    }

    #[test]
    fn an_answer_without_a_length_is_whole_only_if_its_end_is_announced() {
        let papers = Papers::new();
        let house = house(trusting(&papers));
        register(&house, answering_without_a_length(&papers, true), &json!({"healthy": true}));
        assert_eq!(house.call("s", "/").with_status(200).text(), "half of it");
        register(&house, answering_without_a_length(&papers, false), &json!({"healthy": true}));
        assert_eq!(house.call("s", "/").with_status(503).reason(), "upstream_reset");
    }

    #[test]
    fn an_instance_by_openssl_is_called_in_both_versions() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        let papers = Papers::new();
        let (pair, ours) = (papers.issue("instance", "DNS:localhost"), papers.issue("mesh", "DNS:mesh"));
        let house = house(upstreams::Config { cert_file: ours.cert, key_file: ours.key, ..trusting(&papers) });
        for version in ["-tls1_2", "-tls1_3"] {
            let mut server = Command::new("openssl");
            server.args(["s_server", "-accept", "127.0.0.1:0", "-www", version, "-cert", &pair.cert, "-key", &pair.key]);
            server.args(["-Verify", "1", "-verify_return_error", "-CAfile", &papers.ca]);
            let mut server = server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("openssl");
            let lines = BufReader::new(server.stdout.take().expect("piped")).lines();
            let said = lines.map_while(Result::ok).find(|line| line.starts_with("ACCEPT ")).expect("it listens");
            let port = said.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_else(|| panic!("no port: {said}"));
            register(&house, port, &json!({"healthy": true}));
            let answer = house.call("s", "/");
            server.kill().and_then(|()| server.wait()).expect("ended");
            assert!(answer.with_status(200).text().contains("Cipher"), "{version}");
        }
    }

    #[test]
    fn health_is_checked_by_the_same_trust() {
        for trusted in [true, false] {
            let (papers, strangers) = (Papers::new(), Papers::new());
            let pair = papers.issue("instance", "DNS:localhost");
            let upstream = Upstream::start(|_| ok("fine"));
            let sleeve = Sleeve::around(upstream.at, papers.instance(&pair, false));
            let house = house(trusting(if trusted { &papers } else { &strangers }));
            let url = format!("https://localhost:{}/health", sleeve.at.port());
            register(&house, sleeve.at.port(), &json!({"healthCheckUrl": url}));
            eventually("the verdict", || {
                let instance = house.instance("s", "i");
                (instance["lastHealthCheck"] != 0 && instance["healthy"] == trusted).then_some(())
            });
            assert_eq!(upstream.requests() > 0, trusted);
        }
    }

    #[test]
    fn files_that_do_not_do_are_named_at_the_start() {
        let papers = Papers::new();
        let ours = papers.issue("mesh", "DNS:mesh");
        let none = papers.path("none");
        for (config, says) in [
            (upstreams::Config { ca_file: none, ..upstreams::Config::default() }, "upstreams.caFile: "),
            (upstreams::Config { cert_file: ours.cert, ..upstreams::Config::default() }, "upstreams.certFile: needs its key"),
            (upstreams::Config { key_file: ours.key, ..upstreams::Config::default() }, "upstreams.keyFile: needs its certificate"),
        ] {
            let build = |builder: Builder| builder.build().map(drop).expect_err("a bad file").to_string();
            let fault = build(Mesh::builder().upstreams(config));
            assert!(fault.starts_with(says), "{fault}");
        }
    }
}

//! Instances by a name: what the configuration says, and what the program makes of it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::upstream::Upstream;
use crate::weft::{Folder, Weft, run};

fn ids(weft: &Weft) -> BTreeSet<String> {
    let services: Value = weft.get("/services").with_status(200).json();
    let all = services["services"].as_array().or_else(|| services.as_array()).into_iter().flatten();
    all.flat_map(|service| service["instances"].as_array().cloned().unwrap_or_default())
        .map(|instance| instance["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn a_name_is_served_from_the_first_call_on_and_a_reload_can_take_it_back() {
    let upstream = Upstream::named("hello");
    let port = upstream.port();
    let folder = Folder::new();
    let one = json!({"name": "users", "dns": "localhost", "port": port, "intervalMs": 100, "metadata": {"team": "a"}});
    let path = folder.write("weft.json", json!({"discover": [one]}).to_string());
    let weft = Weft::start(&["--config", &path]);
    // localhost is both loopback addresses; on the other one nobody listens, and nobody is harmed by that.
    assert_eq!(ids(&weft), BTreeSet::from([format!("127.0.0.1-{port}"), format!("0-0-0-0-0-0-0-1-{port}")]));
    assert_eq!(weft.call("users", "/").with_status(200).text(), "hello");
    eventually("it is looked up again", || {
        let counted = weft.get("/metrics").json()["discovery"].clone();
        assert_eq!((&counted["failures"], &counted["failing"]), (&json!(0), &json!(0)));
        counted["resolutions"].as_u64().filter(|resolutions| *resolutions > 2)
    });
    let two = json!({"name": "others", "dns": "localhost", "port": port});
    folder.write("weft.json", json!({"discover": [two]}).to_string());
    weft.signal("HUP");
    eventually("the other service is there", || (weft.call("others", "/").status == 200).then_some(()));
    eventually("the first has gone", || (weft.call("users", "/").reason() == "unknown_service").then_some(()));
    folder.write("weft.json", "{}");
    weft.signal("HUP");
    eventually("all have gone", || ids(&weft).is_empty().then_some(()));
}

#[test]
fn a_mistake_in_the_list_is_named() {
    let folder = Folder::new();
    let fault = |discover: Value| {
        let path = folder.write("weft.json", json!({"discover": discover}).to_string());
        let ended = run(&["check", &path]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        ended.err
    };
    let users = || json!({"name": "users", "dns": "users.internal", "port": 8080});
    let with = |key: &str, value: Value| {
        let mut one = users();
        one[key] = value;
        json!([one])
    };
    for (discover, words) in [
        (json!({}), "discover: is not a JSON array"),
        (json!([1]), "discover[0].entry: is not a JSON object"),
        (json!([{"name": "users", "port": 1}]), "discover[0].dns: is missing; name what is to be looked up"),
        (with("dns", json!(7)), "discover[0].dns: is not text"),
        (with("dns", json!("10.0.0.1")), "discover[0].dns: \"10.0.0.1\" is an address; list it under instances"),
        (with("dns", json!("a b")), "discover[0].dns: \"a b\" is neither an IP address nor a host name"),
        (with("intervalMs", json!(10)), "discover[0].intervalMs: 10 is out of range; use 100 to 86400000"),
        (with("intervalMs", json!("5s")), "discover[0].intervalMs: \"\\\"5s\\\"\" is not a number of milliseconds"),
        (with("id", json!("a")), "discover[0].id: is not for instances that are found; each is an address of dns"),
        (with("ttlSeconds", json!(5)), "discover[0].ttlSeconds: is not for instances that are found; each is an address of dns"),
        (with("port", json!(0)), "discover[0].port: 0 is not a port; use 1 to 65535"),
        (json!([users(), users()]), "discover[1].dns: users.internal is listed twice for the same service and port"),
    ] {
        let said = fault(discover);
        assert!(said.contains(words), "{said} does not say {words}");
    }
}

//! Applications written for Dapr call services through the mesh by their unmodified SDK, which they take for Dapr's own sidecar.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use serde_json::{Value, json};

use crate::house::House;
use crate::support::upstream::{Act, Upstream, answer, status};

/// The SDK and all it needs, to the version and the digest.
const REQUIREMENTS: &str = include_str!("requirements.txt");

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxy").join(name)
}

/// A Python that has the SDK: made once, below the build directory, and made anew when the requirements change.
fn python() -> PathBuf {
    let version = REQUIREMENTS.split_whitespace().find(|word| word.starts_with("dapr==")).expect("the SDK");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(version);
    let (python, mark) = (place.join("bin/python"), place.join("requirements.txt"));
    if fs::read_to_string(&mark).is_ok_and(|made| made == REQUIREMENTS) && python.exists() {
        return python;
    }
    let path = place.to_str().expect("UTF-8");
    let made = Command::new("python3").args(["-m", "venv", "--clear", path]).output();
    let made = made.unwrap_or_else(|error| panic!("python3 is needed to test the Dapr SDK: {error}"));
    assert!(made.status.success(), "no virtual environment can be made; install python3-venv: {}", said(&made));
    let requirements = here("requirements.txt");
    let installed = Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "--requirement",
        ])
        .arg(&requirements)
        .output()
        .expect("the Python of the virtual environment");
    let what = format!("{version} and what it needs cannot be installed by pip (tests/proxy/requirements.txt)");
    assert!(installed.status.success(), "{what}: {}", said(&installed));
    // Last, so that what is there in part is made again.
    fs::write(&mark, REQUIREMENTS).expect("a mark");
    python
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs the application beside a house, and reads what it prints.
fn run(house: &House) -> Value {
    let mut app = Command::new(python());
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DAPR_")) {
        app.env_remove(name);
    }
    let output = app
        .arg(here("dapr_app.py"))
        // As the documentation of the SDK has it; HTTP is its default for calls of services.
        .env("DAPR_HTTP_ENDPOINT", format!("http://{}", house.at))
        .env("DAPR_API_METHOD_INVOCATION_PROTOCOL", "http")
        .env("DAPR_HEALTH_TIMEOUT", "20")
        .output()
        .expect("the application");
    assert!(output.status.success(), "{}", said(&output));
    let printed = String::from_utf8_lossy(&output.stdout);
    printed.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("no JSON: {}", said(&output)))
}

#[test]
fn an_application_calls_services_by_the_dapr_sdk_as_it_is() {
    let house = House::with(json!({"retry": {"baseDelayMs": 1}}));
    let upstream = Upstream::start(|asked| match (&*asked.target, asked.header("x-mesh-attempt")) {
        ("/missing", _) => Act::Say(answer(404, &[("content-type", "text/plain")], "nobody of that name")),
        ("/flaky", Some("1")) => status(503),
        _ => Act::Say(answer(
            200,
            &[("content-type", "text/plain"), ("X-Side", "a"), ("X-Side", "b")],
            format!("{} {}", asked.method, asked.target),
        )),
    });
    house.register("users", "i", &upstream);
    let results = run(&house);

    let get = &results["get"];
    assert_eq!((&get["status"], &get["type"], &get["text"]), (&json!(200), &json!("text/plain"), &json!("GET /people/ada")));
    assert_eq!((&get["headers"]["x-mesh-instance"], &get["headers"]["x-side"]), (&json!(["i"]), &json!(["a", "b"])));
    assert_eq!(results["post"]["text"], "POST /people?sort=asc&tag=a+b&tag=c");
    assert_eq!(results["async"]["text"], "PUT /async");
    assert_eq!(results["flaky"]["text"], "GET /flaky");
    assert_eq!(results["flaky"]["headers"]["x-mesh-attempts"], json!(["2"]), "the mesh retries");
    assert!(results["missing"]["text"].as_str().is_some_and(|text| text.contains("404")), "{results}");
    assert!(results["unknown"]["text"].as_str().is_some_and(|text| text.contains("503")), "{results}");

    let asked = upstream.asked();
    let of = |target: &str| asked.iter().find(|asked| asked.target.starts_with(target)).unwrap_or_else(|| panic!("no {target}: {asked:?}"));
    let post = of("/people?");
    assert_eq!((&*post.body, post.header("content-type")), (&br#"{"name": "Ada"}"#[..], Some("application/json; charset=utf-8")));
    assert_eq!((post.header("x-tenant"), post.header("x-service-mesh")), (Some("blue"), Some("true")));
    assert!(post.header("user-agent").is_some_and(|agent| agent.starts_with("dapr-")), "{post:?}");
    assert_eq!(of("/async").body, b"bytes");
}

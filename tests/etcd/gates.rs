//! An etcd that wants to know who asks: names and passwords, certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use weft::outbound::etcd::{Config, Etcd};

use crate::cluster::Cluster;
use crate::support::eventually;
use crate::{config, knows, mesh, mesh_of, register};

#[test]
fn with_authentication_on_only_a_user_that_may_is_heard_and_a_password_may_change() {
    let cluster = Cluster::start(1);
    let early = mesh(&cluster);
    for words in [
        &["user", "add", "root:toor"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "mesh"],
        &["role", "grant-permission", "mesh", "--prefix=true", "readwrite", "/mesh/v1/"],
        &["user", "add", "weft:secret"],
        &["user", "grant-role", "weft", "mesh"],
        &["auth", "enable"],
    ] {
        // The role of root is there already in some versions.
        let _ = cluster.ctl(words);
    }
    assert!(early.register(crate::registration("nobody", 1)).is_err(), "who says no name is refused");
    let file = cluster.folder().join("password");
    fs::write(&file, "secret\n").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let named = Config { username: "weft".to_owned(), password_file: file.display().to_string(), ..config(&cluster) };
    let open = Etcd::open(&named, None).expect("settings").look().expect_err("anybody's");
    assert!(open.to_string().contains("can be read by others than its owner (mode 0644)"), "{open}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
    let (a, b) = (mesh_of(&named, None), mesh_of(&named, None));
    register(&a, "i", 1);
    eventually("b knows", || knows(&b, "i", 1).then_some(()));
    // A new password ends all tokens; the file is read again.
    fs::write(&file, "changed\n").expect("a file");
    let changed = cluster.ctl(&["--user", "root:toor", "user", "passwd", "weft", "--interactive=false"]);
    let _ = changed;
    let mut passwd = Command::new("etcdctl");
    passwd.env("ETCDCTL_API", "3").args(["--endpoints", &cluster.endpoints()[0], "--user", "root:toor"]);
    let mut child =
        passwd.args(["user", "passwd", "weft", "--interactive=false"]).stdin(std::process::Stdio::piped()).spawn().expect("etcdctl");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"changed\n").expect("written");
    assert!(child.wait().expect("a child").success());
    register(&a, "later", 2);
    eventually("b knows", || knows(&b, "later", 2).then_some(()));
    fs::write(&file, "wrong\n").expect("a file");
    let wrong = Etcd::open(&named, None).expect("settings").look().expect_err("refused");
    assert!(wrong.to_string().contains("authentication failed"), "{wrong}");
}

#[test]
#[cfg(feature = "tls")]
fn over_tls_both_sides_show_who_they_are() {
    let cluster = Cluster::start_with(1, "https", |folder| {
        certificates(folder);
        let file = |name: &str| folder.join(name).display().to_string();
        ["--cert-file", &file("server.pem"), "--key-file", &file("server.key"), "--client-cert-auth", "--trusted-ca-file", &file("ca.pem")]
            .map(str::to_owned)
            .to_vec()
    });
    let file = |name: &str| cluster.folder().join(name).display().to_string();
    let ours = Config { ca_file: file("ca.pem"), cert_file: file("client.pem"), key_file: file("client.key"), ..config(&cluster) };
    eventually("etcd serves", || Etcd::open(&ours, None).expect("settings").look().ok());
    let (a, b) = (mesh_of(&ours, None), mesh_of(&ours, None));
    register(&a, "i", 1);
    eventually("b knows", || knows(&b, "i", 1).then_some(()));
    let nameless = Config { cert_file: String::new(), key_file: String::new(), ..ours.clone() };
    assert!(Etcd::open(&nameless, None).expect("settings").look().is_err(), "who shows nothing is refused");
    let trusting = Config { ca_file: String::new(), ..ours.clone() };
    assert!(Etcd::open(&trusting, None).expect("settings").look().is_err(), "an etcd that nobody knows is refused");
    let key = file("client.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("ours");
    let open = Etcd::open(&ours, None).err().expect("refused");
    assert!(open.to_string().contains("registry.etcd.keyFile") && open.to_string().contains("(mode 0640)"), "{open}");
    let missing = Etcd::open(&Config { ca_file: file("none.pem"), ..ours }, None).err().expect("refused");
    assert!(missing.to_string().contains("registry.etcd.caFile"), "{missing}");
}

#[cfg(feature = "tls")]
fn certificates(folder: &Path) {
    fs::write(folder.join("ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").expect("a file");
    let script = "set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca
        for who in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $who.key -out $who.csr -subj /CN=$who
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $who.pem -days 2 -extfile ext
        done";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output().expect("sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

//! Defence against browsers that are made to call the mesh on behalf of a page: forged cross-site requests, and names that are made to
//! point at a loopback address (DNS rebinding).

use std::net::IpAddr;

use super::access::Welcome;

/// Whether a request that changes something may come in, as far as browsers go: from where it came and what host it was sent to.
/// `loopback`: the door listens on loopback only. `secured`: it has come by TLS to this very door.
///
/// # Errors
/// The reason, for a person.
pub fn judge(host: &str, origin: Option<&str>, loopback: bool, secured: bool, welcome: &Welcome) -> Result<(), &'static str> {
    judge_host(host, loopback)?;
    // A page that came in the clear may be anybody's on the way, whatever its name; and a browser shows its certificate on behalf of any page.
    let is_ours = |scheme: &str, authority: &str| authority.eq_ignore_ascii_case(host) && !(secured && scheme.eq_ignore_ascii_case("http"));
    match origin {
        None => Ok(()),
        Some(origin) if welcome.allows(origin) => Ok(()),
        // A page's origin is scheme://host[:port]; ours is whatever the request says it was sent to.
        Some(origin) if origin.split_once("://").is_some_and(|(scheme, authority)| is_ours(scheme, authority)) => Ok(()),
        Some(_) => Err("the request comes from a page of another origin"),
    }
}

/// Whether a request that changes nothing may come in by the host it was sent to: a page whose own name was made to point here could read
/// what it is answered. No browser leaves the host out. `loopback`: the door listens on loopback only.
///
/// # Errors
/// The reason, for a person.
pub fn judge_reading(host: &str, loopback: bool) -> Result<(), &'static str> {
    if host.is_empty() { Ok(()) } else { judge_host(host, loopback) }
}

fn judge_host(host: &str, loopback: bool) -> Result<(), &'static str> {
    if loopback && !is_local(host) {
        return Err("the Host header names another machine, but this mesh listens on loopback only");
    }
    Ok(())
}

/// Whether a `Host` value names this machine's loopback, on whatever port.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(fields: &[(&str, &str)], loopback: bool) -> bool {
        let field = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let welcome = Welcome { origins: ["https://ops.example".to_owned()].into(), ..Welcome::default() };
        judge(field("host").unwrap_or_default(), field("origin"), loopback, false, &welcome).is_ok()
    }

    #[test]
    fn pages_of_other_origins_and_rebound_names_are_refused() {
        for (fields, loopback, expected) in [
            (&[("host", "localhost:3000")][..], true, true),
            (&[("host", "127.0.0.1:3000")], true, true),
            (&[("host", "[::1]:3000")], true, true),
            (&[("host", "evil.com")], true, false),
            (&[("host", "localhost.evil.com:3000")], true, false),
            (&[], true, false),
            (&[("host", "mesh.internal:3000")], false, true),
            (&[("host", "localhost:3000"), ("origin", "http://localhost:3000")], true, true),
            (&[("host", "localhost:3000"), ("origin", "http://evil.com")], true, false),
            (&[("host", "localhost:3000"), ("origin", "http://localhost:4000")], true, false),
            (&[("host", "localhost:3000"), ("origin", "null")], true, false),
            (&[("host", "localhost:3000"), ("origin", "https://ops.example")], true, true),
            (&[("host", "localhost:3000"), ("origin", "https://ops.example.evil.com")], true, false),
            (&[("host", "localhost:3000"), ("origin", "http://ops.example")], true, false),
            (&[("host", "evil.com"), ("origin", "https://ops.example")], true, false),
        ] {
            assert_eq!(allowed(fields, loopback), expected, "{fields:?}");
        }
    }
}

//! The dashboard: one page for a browser, whole in itself. It holds no data; what it shows it asks the API for, in its reader's name.
//!
//! Only the script and the style that are in it may run: the policy that goes out with it names them by their digests, and forbids turning
//! text into elements altogether.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use crate::contract::answer::Answer;
use crate::contract::request::Request;

const FRAME: &str = include_str!("dashboard.html");
const STYLE: &str = include_str!("dashboard/style.css");
/// In the order in which they need one another.
const SCRIPT: &str = concat!(
    include_str!("dashboard/parts.js"),
    include_str!("dashboard/chart.js"),
    include_str!("dashboard/mesh.js"),
    include_str!("dashboard/actions.js"),
    include_str!("dashboard/calls.js"),
    include_str!("dashboard/overview.js"),
    include_str!("dashboard/service.js"),
    include_str!("dashboard/main.js"),
);

/// The page as it goes out.
struct Page {
    html: String,
    /// What its policy says.
    policy: String,
    tag: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let html = FRAME.replace("{style}", STYLE).replace("{script}", SCRIPT);
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        digest(SCRIPT),
        digest(STYLE)
    );
    let tag = format!("\"{:016x}\"", crate::policy::hash::hash(html.as_bytes()));
    Page { html, policy, tag }
});

/// The page, unless the client has it.
pub(super) fn page(request: &Request) -> Answer {
    let page = &*PAGE;
    let answer = if request.has(&page.tag) { Answer::empty(304) } else { Answer::new(200, "text/html; charset=utf-8", page.html.as_str()) };
    answer
        .with("etag", &page.tag)
        .with("cache-control", "no-cache")
        .with("content-security-policy", &page.policy)
        .with("x-content-type-options", "nosniff")
        .with("x-frame-options", "DENY")
        .with("referrer-policy", "no-referrer")
        .with("cross-origin-opener-policy", "same-origin")
        .with("cross-origin-resource-policy", "same-origin")
        .with("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=()")
}

/// As a policy names what may run.
fn digest(source: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(source)))
}

/// Base 64, with padding (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let at = |n: usize| u32::from(piece.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for n in 0..4 {
            let letter = usize::try_from(bits >> (18 - 6 * n) & 63).ok().and_then(|at| LETTERS.get(at));
            out.push(if n > piece.len() { '=' } else { letter.copied().map_or('=', char::from) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_page_that_loads_nothing_and_is_small() {
        let html = &PAGE.html;
        assert!(html.len() < 100 * 1024, "{} bytes", html.len());
        assert_eq!((html.matches("<script>").count(), html.matches("<style>").count()), (1, 1));
        // The namespace of SVG is a name, not an address.
        let named = html.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "src=", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval("] {
            assert!(!named.contains(outside), "{outside}");
        }
        for inline in [" style=", " onclick=", "javascript:"] {
            assert!(!FRAME.contains(inline), "{inline}: the policy forbids it");
        }
    }

    #[test]
    fn what_may_run_is_named_by_its_digest() {
        assert_eq!(digest(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!((base64(b"f").as_str(), base64(b"fo").as_str(), base64(b"foo").as_str()), ("Zg==", "Zm8=", "Zm9v"));
        assert!(!PAGE.policy.contains("unsafe") && PAGE.policy.starts_with("default-src 'none';"), "{}", PAGE.policy);
    }
}

//! Which callers may call what of a service. The first rule that covers a call decides; where there are rules and none covers it, it is
//! refused. Decided on the path that is sent, and only if no two readers could take that path for different ones.

use serde::{Deserialize, Serialize};

use crate::model::settings::{leaf, settings};
use crate::model::{Endpoint, Invalid, Method, decode_once};

settings! {
    /// A rule.
    pub struct Rule {
        /// Names of callers, as their tokens or certificates prove them; "pay-*" are all that begin so, "*" is everybody with a name.
        /// Empty: everybody, known or not.
        callers: Vec<String> = Vec::new();
        /// Methods, in capitals. Empty: all.
        methods: Vec<String> = Vec::new();
        /// What the path begins with, in whole segments. Empty: all paths.
        path_prefixes: Vec<String> = Vec::new();
        /// What becomes of a call that it covers: allow, deny, or audit (let in, and logged as what would be refused).
        action: Action = Action::Allow;
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is let in.
    Allow,
    /// It is refused.
    Deny,
    /// It is let in, and logged as one that would be refused.
    Audit,
}

leaf! { Action => |_| None, Rules => |_| None }

/// The rules of one service, in order.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// What becomes of a call of `caller`, with what `path` says, query and all.
    pub fn judge(&self, caller: Option<&str>, method: Method, path: &str) -> Action {
        if self.0.is_empty() {
            return Action::Allow;
        }
        let path = path.split('?').next().unwrap_or_default();
        let path = if path.is_empty() { "/" } else { path };
        let by_path = self.0.iter().any(|rule| !rule.path_prefixes.is_empty());
        if by_path && !is_plain(path) {
            // Rules that are only tried out refuse nothing, this included: not to those whom they let in whatever the path.
            return if self.is_tried_out() && self.0.iter().any(|rule| rule.path_prefixes.is_empty() && rule.is_for(caller, method)) {
                Action::Audit
            } else {
                Action::Deny
            };
        }
        // What is not plain has been refused, unless no rule is about paths.
        let path = decode_once(path).unwrap_or_default();
        self.0.iter().find(|rule| rule.covers(caller, method, &path)).map_or(Action::Deny, |rule| rule.action)
    }

    fn is_tried_out(&self) -> bool {
        self.0.last().is_some_and(|rule| rule.action == Action::Audit) && self.0.iter().all(|rule| rule.action != Action::Deny)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses what could never cover a call, or would cover another one than it says.
    pub(super) fn check_rules(&self, faults: &mut Vec<Invalid>) {
        for (n, rule) in self.0.iter().enumerate() {
            let mut fault = |key: &str, why: String| faults.push(Invalid::new(format!("allow[{n}].{key}"), why));
            for method in &rule.methods {
                match Method::new(method) {
                    Ok(known) if known.as_str() == method => {}
                    Ok(known) => fault("methods", format!("write {} in capitals", known.as_str())),
                    Err(invalid) => fault("methods", invalid.why),
                }
            }
            for prefix in &rule.path_prefixes {
                match Endpoint::new(prefix) {
                    Ok(_) if is_plain(prefix) && !prefix.contains('?') => {}
                    Ok(_) => fault("pathPrefixes", format!("{} is no plain path", crate::model::shown(prefix))),
                    Err(invalid) => fault("pathPrefixes", invalid.why),
                }
            }
            for caller in &rule.callers {
                let name = caller.strip_suffix('*').unwrap_or(caller);
                if name.contains('*') || caller.is_empty() {
                    fault("callers", format!("{} is neither a name nor the beginning of names and a '*'", crate::model::shown(caller)));
                }
            }
        }
    }
}

impl Rule {
    /// Whether it covers a call for a path, which is decoded.
    fn covers(&self, caller: Option<&str>, method: Method, path: &[u8]) -> bool {
        self.is_for(caller, method) && (self.path_prefixes.is_empty() || self.path_prefixes.iter().any(|prefix| begins_with(path, prefix)))
    }

    /// Whether it covers such a call of `caller` for some path.
    fn is_for(&self, caller: Option<&str>, method: Method) -> bool {
        let is_called = |rule: &String| match (rule.strip_suffix('*'), caller) {
            (_, None) => false,
            (Some(begin), Some(name)) => name.starts_with(begin),
            (None, Some(name)) => name == rule,
        };
        (self.callers.is_empty() || self.callers.iter().any(is_called))
            && (self.methods.is_empty() || method != Method::Other && self.methods.iter().any(|known| known == method.as_str()))
    }
}

/// Whether a decoded path begins with these whole segments. `%24` is `$`, and `%c3` is `%C3`: instances decode what they read.
fn begins_with(path: &[u8], prefix: &str) -> bool {
    let prefix = decode_once(prefix).unwrap_or_default();
    path.strip_prefix(&*prefix).is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/') || prefix.ends_with(b"/"))
}

/// Whether a path means the same to whoever reads it: no empty or dotted segment, no parameters of a segment, and nothing encoded that need
/// not be (RFC 3986 §6.2.2), or that would end or divide the path once it is decoded.
fn is_plain(path: &str) -> bool {
    let empty_inside = path.get(1..).is_some_and(|rest| rest.contains("//") || rest.starts_with('/'));
    let dotted = path.split('/').any(|segment| segment == "." || segment == "..");
    let encoded = |at: usize| path.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let may_be = |byte: u8| !(byte.is_ascii_alphanumeric() || b"-._~/\\;%?#".contains(&byte) || byte.is_ascii_control());
    path.starts_with('/')
        && !empty_inside
        && !dotted
        && !path.contains([';', '\\'])
        && path.match_indices('%').all(|(at, _)| encoded(at).is_some_and(may_be))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::Policy;

    fn rules(json: &Value) -> Rules {
        Policy::from_json(&json!({"allow": json})).expect("valid").allow
    }

    #[test]
    fn the_first_rule_that_covers_a_call_decides_and_what_none_covers_is_refused() {
        use Action::{Allow, Audit, Deny};
        let rules = rules(&json!([
            {"callers": ["mallory"], "action": "deny"},
            {"callers": ["web", "pay-*"], "methods": ["GET", "POST"], "pathPrefixes": ["/api", "/v2/"]},
            {"callers": ["*"], "pathPrefixes": ["/public"]},
            {"pathPrefixes": ["/open"], "action": "allow"},
            {"callers": ["old"], "action": "audit"},
        ]));
        for (caller, method, path, expected) in [
            (Some("mallory"), Method::Get, "/open", Deny),
            (Some("web"), Method::Get, "/api", Allow),
            (Some("web"), Method::Post, "/api/x?y=/../z", Allow),
            (Some("pay-cards"), Method::Get, "/v2/x", Allow),
            (Some("web"), Method::Get, "/apis", Deny),
            (Some("web"), Method::Delete, "/api", Deny),
            (Some("web"), Method::Other, "/api", Deny),
            (Some("webx"), Method::Get, "/api", Deny),
            (Some("anybody"), Method::Get, "/public", Allow),
            (None, Method::Get, "/public", Deny),
            (None, Method::Get, "/open/x", Allow),
            (Some("old"), Method::Get, "/anything", Audit),
            (None, Method::Get, "?x", Deny),
        ] {
            assert_eq!(rules.judge(caller, method, path), expected, "{caller:?} {method} {path}");
        }
        assert_eq!(Rules::default().judge(None, Method::Other, "/x//y"), Allow);
    }

    #[test]
    fn a_path_that_two_readers_might_take_for_different_ones_is_covered_by_no_rule() {
        let rules = rules(&json!([{"pathPrefixes": ["/admin"], "action": "deny"}, {}]));
        for path in ["/", "/x", "/x/", "/a%20b", "/caf%C3%A9", "/x?y=//z", "/administrator"] {
            assert_eq!(rules.judge(None, Method::Get, path), Action::Allow, "{path}");
        }
        for path in [
            "/admin",
            "/admin/x",
            "//admin",
            "/./admin",
            "/x/../admin",
            "/%61dmin",
            "/x%2fadmin",
            "/admin;x=1",
            "/%2e/admin",
            "/x%5cadmin",
            "/%2561dmin",
            "/x//y",
            "/x/.",
            "/x%3by",
            "/admin%3Fx",
            "/admin%23",
            "*",
            "admin",
        ] {
            assert_eq!(rules.judge(None, Method::Get, path), Action::Deny, "{path}");
        }
    }

    #[test]
    fn a_character_is_the_same_whether_it_is_encoded_or_not_and_with_whatever_digits() {
        let rules = rules(&json!([{"pathPrefixes": ["/$metadata", "/caf%C3%A9", "/a%3Ab", "/c+d"], "action": "deny"}, {}]));
        for path in ["/$metadata", "/%24metadata/x", "/caf%c3%a9", "/caf%C3%a9/x", "/a:b", "/a%3ab", "/c+d/x", "/c%2Bd", "/c%2bd"] {
            assert_eq!(rules.judge(None, Method::Get, path), Action::Deny, "{path}");
        }
        for path in ["/%24metadatas", "/caf%C3%A8", "/c%20d", "/a%3Abc"] {
            assert_eq!(rules.judge(None, Method::Get, path), Action::Allow, "{path}");
        }
    }

    #[test]
    fn rules_that_are_tried_out_refuse_nothing() {
        let rules = rules(&json!([{"callers": ["web"], "pathPrefixes": ["/api"]}, {"action": "audit"}]));
        assert_eq!(rules.judge(Some("web"), Method::Get, "/api"), Action::Allow);
        assert_eq!(rules.judge(None, Method::Get, "/api"), Action::Audit);
        assert_eq!(rules.judge(None, Method::Get, "/x//y"), Action::Audit);
    }

    #[test]
    fn a_rule_that_is_tried_out_on_some_lets_nobody_else_in_by_a_path_of_two_readings() {
        let api = json!({"callers": ["web"], "pathPrefixes": ["/api"]});
        for tried in [
            json!({"callers": ["old"], "action": "audit"}),
            json!({"methods": ["POST"], "action": "audit"}),
            json!({"pathPrefixes": ["/new"], "action": "audit"}),
        ] {
            let rules = rules(&json!([api, tried]));
            for path in ["/api", "/api;x", "/%61pi", "//api", "/x/../api", "/"] {
                assert_eq!(rules.judge(Some("mallory"), Method::Get, path), Action::Deny, "{tried} {path}");
            }
        }
        let rules = rules(&json!([api, {"callers": ["old"], "action": "audit"}]));
        assert_eq!(rules.judge(Some("old"), Method::Get, "/api;x"), Action::Audit, "whom it is tried out on it still refuses nothing");
    }

    #[test]
    fn a_rule_that_could_never_be_right_is_refused() {
        for (rule, field) in [
            (json!({"methods": ["get"]}), "allow[0].methods"),
            (json!({"methods": ["TRACE"]}), "allow[0].methods"),
            (json!({"pathPrefixes": ["api"]}), "allow[0].pathPrefixes"),
            (json!({"pathPrefixes": ["/a//b"]}), "allow[0].pathPrefixes"),
            (json!({"pathPrefixes": ["/a?b"]}), "allow[0].pathPrefixes"),
            (json!({"callers": ["a*b"]}), "allow[0].callers"),
            (json!({"callers": [""]}), "allow[0].callers"),
        ] {
            let fault = Policy::from_json(&json!({"allow": [rule]})).expect_err("refused");
            assert_eq!(fault.field, field, "{rule}");
        }
        for rule in [json!({"caller": ["a"]}), json!({"action": "perhaps"})] {
            assert!(Policy::from_json(&json!({"allow": [rule]})).is_err(), "{rule}");
        }
    }
}

//! In which form a client wants its metrics, by what it accepts.

use crate::telemetry::exposition::Format;

/// The text format that `accept` asks for; `None`: the JSON, as for everybody who does not ask for text alone.
///
/// Whoever names OpenMetrics gets it, as a Prometheus does that knows it. Plain text is for those who do not also take JSON: the default
/// of many HTTP clients names both.
pub fn metrics_format(accept: &str) -> Option<Format> {
    let accepts = |wanted: &str| accept.split(',').any(|part| is_accepted(part, wanted));
    if accepts("application/openmetrics-text") {
        Some(Format::OpenMetrics)
    } else if accepts("text/plain") && !accepts("application/json") {
        Some(Format::Prometheus)
    } else {
        None
    }
}

/// Whether a part of an `Accept` field names this type, and not only to refuse it by `q=0`.
fn is_accepted(part: &str, wanted: &str) -> bool {
    let mut parameters = part.split(';').map(str::trim);
    let is_named = parameters.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
    let is_refused = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        name.trim().eq_ignore_ascii_case("q") && value.trim().parse().is_ok_and(|quality: f32| quality <= 0.0)
    };
    is_named && !parameters.any(is_refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_for_those_who_ask_for_it_alone_and_openmetrics_for_those_who_name_it() {
        let scraper = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;\
                       q=0.4,text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, format) in [
            ("", None),
            ("*/*", None),
            ("text/*", None),
            ("application/json", None),
            ("application/json, text/plain, */*", None),
            ("text/html,application/xhtml+xml,*/*;q=0.8", None),
            ("text/plain", Some(Format::Prometheus)),
            ("Text/Plain; version=0.0.4; q=0.5, */*;q=0.1", Some(Format::Prometheus)),
            ("text/plain, application/json;q=0", Some(Format::Prometheus)),
            ("text/plain;q=0", None),
            ("text/plainer", None),
            (scraper, Some(Format::OpenMetrics)),
            ("application/json, application/openmetrics-text", Some(Format::OpenMetrics)),
            ("application/openmetrics-text; q=0.0, text/plain", Some(Format::Prometheus)),
            (";;,=,q=0", None),
        ] {
            assert_eq!(metrics_format(accept), format, "{accept}");
        }
    }
}

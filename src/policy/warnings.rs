//! Settings that are each allowed and make no sense together: accepted, with a word of warning.

use super::Policy;
use crate::model::time::whole_ms;

impl Policy {
    /// What an operator has probably not meant, each a sentence that names the keys.
    pub fn warnings(&self) -> Vec<String> {
        let Self { circuit_breaker: breaker, outlier, retry, timeouts, health_check: health, limits, rate_limit: rate, .. } = self;
        let waits: u64 = (1..=retry.max_retries).map(|n| whole_ms(retry.delay(n, 0))).fold(0, u64::saturating_add);
        let mut all = Vec::new();
        let mut warn = |wrong: bool, sentence: &dyn Fn() -> String| {
            if wrong {
                all.push(sentence());
            }
        };
        warn(waits >= timeouts.total_ms.0, &|| {
            format!(
                "retry: the waits before {} retries add up to {waits} ms, and timeouts.totalMs is {}; the last ones will never be made",
                retry.max_retries, timeouts.total_ms.0
            )
        });
        warn(timeouts.connect_ms > timeouts.attempt_ms, &|| {
            format!(
                "timeouts.connectMs {} is above timeouts.attemptMs {}; the attempt ends first",
                timeouts.connect_ms.0, timeouts.attempt_ms.0
            )
        });
        warn(limits.max_queue > 0 && limits.queue_timeout_ms >= timeouts.total_ms, &|| {
            format!(
                "limits.queueTimeoutMs {} is not below timeouts.totalMs {}; a call that waits that long has no time left",
                limits.queue_timeout_ms.0, timeouts.total_ms.0
            )
        });
        warn(limits.max_queue > 0 && limits.queue_timeout_ms.0 == 0, &|| {
            format!("limits.maxQueue is {} and limits.queueTimeoutMs 0; nothing ever waits", limits.max_queue)
        });
        warn(u64::from(limits.max_queue) > 16 * u64::from(limits.max_in_flight), &|| {
            format!(
                "limits.maxQueue {} is more than sixteen times limits.maxInFlight {}; most of those that wait will wait in vain",
                limits.max_queue, limits.max_in_flight
            )
        });
        warn(breaker.slow_call_rate_percent > 0 && breaker.slow_call_ms >= timeouts.total_ms, &|| {
            format!(
                "circuitBreaker.slowCallMs {} is not below timeouts.totalMs {}; no call can be slow",
                breaker.slow_call_ms.0, timeouts.total_ms.0
            )
        });
        warn(outlier.base_ejection_ms > outlier.max_ejection_ms, &|| {
            format!(
                "outlier.baseEjectionMs {} is above outlier.maxEjectionMs {}; every ejection lasts the latter",
                outlier.base_ejection_ms.0, outlier.max_ejection_ms.0
            )
        });
        warn(health.timeout_ms > health.interval_ms, &|| {
            format!(
                "healthCheck.timeoutMs {} is above healthCheck.intervalMs {}; a hanging check delays the next",
                health.timeout_ms.0, health.interval_ms.0
            )
        });
        warn(rate.rate_per_second > 0.0 && rate.per_caller.rate_per_second > rate.rate_per_second, &|| {
            format!(
                "rateLimit.perCaller.ratePerSecond {} is above rateLimit.ratePerSecond {}; no caller can reach it",
                rate.per_caller.rate_per_second, rate.rate_per_second
            )
        });
        let after_all = self.routes.iter().skip_while(|route| !route.covers_all()).skip(1);
        all.extend(after_all.map(|route| format!("routes: {} stands after a route that covers every call; it never counts", route.name)));
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn warnings(json: &Value) -> Vec<String> {
        Policy::from_json(json).expect("valid").warnings()
    }

    #[test]
    fn the_defaults_go_together() {
        assert_eq!(warnings(&json!({})), [""; 0]);
    }

    #[test]
    fn each_contradiction_is_named_by_its_keys() {
        for (json, named) in [
            (json!({"retry": {"maxRetries": 20, "baseDelayMs": 1000}}), "retry: the waits before 20 retries"),
            (json!({"timeouts": {"connectMs": 20_000}}), "timeouts.connectMs 20000 is above timeouts.attemptMs 10000"),
            (json!({"limits": {"queueTimeoutMs": 30_000}}), "limits.queueTimeoutMs 30000 is not below timeouts.totalMs 30000"),
            (json!({"limits": {"queueTimeoutMs": 0}}), "limits.maxQueue is 256 and limits.queueTimeoutMs 0"),
            (json!({"limits": {"maxInFlight": 2}}), "limits.maxQueue 256 is more than sixteen times limits.maxInFlight 2"),
            (json!({"circuitBreaker": {"slowCallRatePercent": 50, "slowCallMs": 40_000}}), "circuitBreaker.slowCallMs 40000"),
            (json!({"outlier": {"baseEjectionMs": 400_000}}), "outlier.baseEjectionMs 400000 is above"),
            (json!({"healthCheck": {"intervalMs": 1000}}), "healthCheck.timeoutMs 5000 is above healthCheck.intervalMs 1000"),
            (json!({"rateLimit": {"ratePerSecond": 1, "perCaller": {"ratePerSecond": 2}}}), "rateLimit.perCaller.ratePerSecond 2"),
            (json!({"routes": [{"name": "all"}, {"name": "late", "match": {"method": "GET"}}]}), "routes: late stands after a route"),
        ] {
            let found = warnings(&json);
            assert!(found.len() == 1 && found[0].starts_with(named), "{json}: {found:?}");
        }
    }
}

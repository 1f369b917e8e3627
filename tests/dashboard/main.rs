//! The dashboard in a real browser, against the real program: what people see is what the API says, whatever is registered, without a mouse,
//! without a token, and without a mesh. What happens on the page is told in `scenes.mjs`.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)] // The same.
#[path = "../program/weft.rs"]
mod weft;

mod browser;
mod overview;

use browser::{play, play_with};
use serde_json::json;

#[test]
fn what_it_shows_is_what_the_api_says() {
    play("values");
}

#[test]
fn an_instance_that_dies_turns_red_with_the_reason() {
    play("killed");
}

#[test]
fn what_an_operator_does_by_click_is_done_and_seen() {
    play("actions");
}

#[test]
fn names_labels_and_reasons_stay_text() {
    play("hostile");
}

#[test]
fn it_can_be_used_without_a_mouse_and_read_aloud() {
    play("keyboard");
}

#[test]
fn it_asks_for_a_token_and_says_what_that_may_not_do() {
    play("tokens");
}

#[test]
fn it_says_when_the_mesh_is_away_and_rests_while_nobody_looks() {
    play("absence");
}

#[test]
fn hundreds_of_instances_are_shown_by_the_page() {
    play("many");
}

#[test]
fn two_clicks_lead_from_something_is_slow_to_the_instance_and_the_attempt() {
    play_with(json!({"telemetry": {"slowMs": 300}}), "clicks");
}

#[test]
fn a_failed_call_is_shown_with_each_attempt_and_the_waits_between() {
    play("failures");
}

/// With `WEFT_PICTURE=FILE` also the one for the README, and with `WEFT_PICTURE_MINUTES=16` with a whole quarter of an hour to be seen on it.
#[test]
fn it_looks_as_it_should_to_whoever_looks_at_the_pictures() {
    play_with(json!({"telemetry": {"tracing": true}}), "pictures");
}

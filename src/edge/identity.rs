//! Who has sent a request, where that has to be proven, and whether they may.

use std::sync::Arc;

use super::acceptor::Acceptor;
use super::client::Client;
use super::exchange::{Exchange, Flow, Goal, Task};
use super::reactor::Loop;
use crate::contract::access::{self, Need};
use crate::contract::answer::ApiError;
use crate::contract::caller::Denied;
use crate::contract::paths;
use crate::contract::router::Scope;
use crate::model::{Caller, Reason};

impl Loop {
    /// Finds out who has sent a request. Which service a call in JSON is about is not known yet, nor what a registration is about.
    pub(super) fn identify(&self, client: &mut Client, exchange: &mut Exchange, goal: Goal) -> Result<(), ApiError> {
        exchange.grant = None;
        exchange.token_in_authorization = false;
        let Some(access) = &self.shared.welcome.access else {
            exchange.grant = client.name.as_ref().map(|name| client.remembered.certified(name));
            return Ok(());
        };
        let request = &exchange.request;
        // What a call needs is known without the table.
        let of_api = (goal == Goal::Api).then(|| Need::of(request.method(), request.target().split('?').next().unwrap_or_default()));
        if of_api.is_some_and(|need| need.is_open()) {
            return Ok(());
        }
        let (grant, in_authorization) = match access::token(request.head.fields()) {
            Ok((token, in_authorization)) => (access.of_token(token, &mut client.remembered)?, in_authorization),
            // Whoever shows no token may have shown a certificate.
            Err(why) => (client.name.as_ref().filter(|_| why == Denied::NoToken).and_then(|name| access.named(name)).ok_or(why)?, false),
        };
        match goal {
            Goal::Api => of_api.map_or(Ok(()), |need| need.judge(&grant))?,
            Goal::Invoke => grant.may(Scope::Invoke, None)?,
            Goal::Proxy(proxied) => {
                let (service, _) = paths::service_and_path(proxied, request.target(), request.authority(), &request.head);
                grant.may(Scope::Invoke, Some(service))?;
            }
        }
        exchange.grant = Some(grant);
        exchange.token_in_authorization = in_authorization;
        Ok(())
    }

    /// Whether what goes on for long may: its sender is who it was, and may do what it might when it began.
    pub(super) fn is_still_welcome(&self, client: &mut Client, exchange: &mut Exchange, goal: Goal) -> bool {
        let granted = exchange.grant.clone();
        self.identify(client, exchange, goal).is_ok() && exchange.grant == granted
    }

    /// Clients to come are secured with this. Where it has other authorities than the one before, who is here has to come again and prove
    /// anew who it is: answers that are under way are finished, and what might go on for ever ends.
    pub(super) fn use_acceptor(&mut self, acceptor: Option<Acceptor>) {
        let before = std::mem::replace(&mut self.acceptor, acceptor);
        let judge_alike = matches!((&before, &self.acceptor), (Some(before), Some(now)) if now.judges_as(before));
        if judge_alike {
            return;
        }
        for key in self.clients.keys() {
            if let Some(client) = self.clients.get_mut(key).filter(|client| client.secured.is_some()) {
                client.closes = true;
                client.readiness.broken |= client.exchange.as_ref().is_some_and(|exchange| exchange.may_last());
                self.again.push(key);
            }
        }
    }

    /// Refuses a request that may not come in, or is not what it should be.
    pub(super) fn turn_away(&mut self, client: &mut Client, exchange: &mut Exchange, error: ApiError) -> Flow {
        match error.reason() {
            Reason::Unauthorized => self.counters().unauthorized.add(1),
            Reason::Forbidden => self.counters().forbidden.add(1),
            _ => {}
        }
        self.refuse(client, exchange, error)
    }
}

impl Exchange {
    /// Whether it may go on for ever, or has yet to say something that only its sender may know.
    const fn may_last(&self) -> bool {
        matches!(self.task, Task::Watch(_) | Task::Tap(_) | Task::Tunnel(_))
    }

    /// Its caller, as calls name it.
    pub(super) fn caller(&self, client: &Client) -> Caller {
        Caller { name: self.grant.as_ref().map(|grant| Arc::clone(&grant.identity.name)), address: client.address }
    }
}

//! Who is there: the services by name, and the settings that apply to each.
//!
//! Readers take an immutable snapshot or look one name up; a change makes a new snapshot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::record::Version;
use crate::model::sync::{Locked, Published};
use crate::model::{Invalid, Limit, ServiceName, shown};
use crate::policy::breaker::Order;
use crate::policy::{self, Policy};
use crate::telemetry::events::{Events, Kind};

/// All services.
pub(super) struct Registry {
    /// Guarded: the current snapshot.
    services: Published<Arc<HashMap<ServiceName, Arc<Cluster>>>>,
    /// Guarded: the settings, layer by layer.
    layers: Published<Arc<Layers>>,
    /// Guarded: what operators have ordered of circuit breakers and not taken back, also of services that have gone and may come back.
    orders: Locked<HashMap<ServiceName, Order>>,
    max_services: usize,
    /// The last index any service has had.
    indices: Arc<AtomicU64>,
}

/// Where settings come from, weakest first. Shared, so that a change of one service's costs no copy of the others'.
#[derive(Clone, Default)]
pub(super) struct Layers {
    /// `defaults` in the configuration.
    pub(super) defaults: Arc<Value>,
    /// `services.<name>` in the configuration.
    pub(super) configured: Arc<BTreeMap<ServiceName, Value>>,
    /// `PUT /services/{name}/policy`.
    pub(super) put: BTreeMap<ServiceName, Put>,
    /// Grows with every change, so that an older one cannot overwrite a newer one.
    version: u64,
}

/// What was put on top for one service.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Put {
    pub(super) patch: Arc<Value>,
    /// Of what the store keeps.
    pub(super) version: Version,
    /// It came from the store, and did not go with the configuration: as long as that is so, what it says about callers is in force, and no more.
    pub(super) in_part: bool,
}

impl Layers {
    /// The configured layers, with nothing put on top.
    pub(super) fn new(defaults: Value, configured: BTreeMap<ServiceName, Value>) -> Self {
        Self { defaults: Arc::new(defaults), configured: Arc::new(configured), put: BTreeMap::new(), version: 0 }
    }

    /// What is in force for `service`.
    pub(super) fn policy(&self, service: &ServiceName) -> Result<Policy, Invalid> {
        self.policy_under(service, self.put.get(service))
    }

    /// What would be in force for `service` if that were put on top.
    pub(super) fn policy_under(&self, service: &ServiceName, put: Option<&Put>) -> Result<Policy, Invalid> {
        let whole = self.with(service, put.map(|put| &*put.patch));
        let Some(put) = put.filter(|put| put.in_part && whole.is_err()) else { return whole };
        // Whoever was kept out stays out: where the rules are what is wrong, everybody is.
        let rules = put.patch.get("allow").map_or_else(|| json!({}), |rules| json!({ "allow": rules }));
        self.with(service, Some(&rules)).or_else(|_| self.with(service, Some(&json!({"allow": [{"action": "deny"}]}))))
    }

    /// The configuration of `service` with this on top.
    fn with(&self, service: &ServiceName, put: Option<&Value>) -> Result<Policy, Invalid> {
        let mut json = Value::Object(serde_json::Map::new());
        for layer in [Some(&*self.defaults), self.configured.get(service), put].into_iter().flatten() {
            match layer {
                Value::Null => {}
                Value::Object(_) => policy::merge(&mut json, layer),
                other => return Err(Invalid::new("policy", format!("{} is not an object", shown(&other.to_string())))),
            }
        }
        Policy::from_json(&json)
    }

    /// Checks that every service's settings are valid together.
    fn check(&self) -> Result<(), Invalid> {
        self.policy_of_nobody().map_err(|fault| within("defaults", fault))?;
        for service in self.configured.keys().chain(self.put.keys()) {
            self.policy(service).map_err(|fault| within(&format!("services.{service}"), fault))?;
        }
        Ok(())
    }

    /// What is in force for a service that names nothing of its own.
    pub(super) fn policy_of_nobody(&self) -> Result<Policy, Invalid> {
        Policy::from_json(if self.defaults.is_null() { return Ok(Policy::default()) } else { &self.defaults })
    }
}

impl Registry {
    pub(super) fn new(layers: Layers, max_services: usize) -> Result<Self, Invalid> {
        layers.check()?;
        let (services, layers) = (Published::default(), Published::new(Arc::new(layers)));
        Ok(Self { services, layers, orders: Locked::default(), max_services, indices: Arc::default() })
    }

    /// One service.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Cluster>> {
        self.services.read(|services| services.get(name).map(Arc::clone))
    }

    /// How many services there may be.
    pub(super) const fn max_services(&self) -> usize {
        self.max_services
    }

    /// All services, sorted by name.
    pub(super) fn all(&self) -> Vec<Arc<Cluster>> {
        let snapshot = self.services.read(Arc::clone);
        let mut all: Vec<_> = snapshot.values().map(Arc::clone).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The service of that name, made if need be, unless there are then more than `most`.
    pub(super) fn find_or_make(&self, name: &ServiceName, most: usize, events: &Arc<Events>, now: Instant) -> Result<Arc<Cluster>, Limit> {
        if let Some(cluster) = self.find(name.as_str()) {
            return Ok(cluster);
        }
        // Layers were checked when they were set; the defaults stand in for what cannot happen.
        let layers = self.layers();
        let policy = Arc::new(layers.policy(name).unwrap_or_default());
        let made = Arc::new(Cluster::new(name.clone(), (policy, layers.version), Arc::clone(events), Arc::clone(&self.indices), now));
        // Whoever may register and deregister does not undo by that what an operator has ordered.
        self.obey_again(&made, now);
        let cluster = self.services.update(|services| match services.get(name) {
            Some(other) => Ok(Arc::clone(other)),
            None if services.len() >= most => Err(Limit::Services),
            None => {
                Arc::make_mut(services).insert(name.clone(), Arc::clone(&made));
                Ok(Arc::clone(&made))
            }
        })?;
        if let Some(order) = self.obey_again(&cluster, now).filter(|_| Arc::ptr_eq(&cluster, &made)) {
            let how = if order == Order::Disabled { "disabled" } else { "forced open" };
            events.publish(Kind::Breaker, Some(name), None, format!("circuit breaker still {how} by an operator"));
        }
        // Settings that changed meanwhile were applied to the services there were then.
        let latest = self.layers();
        if latest.version != layers.version
            && let Ok(policy) = latest.policy(name)
        {
            cluster.set_policy(Arc::new(policy), latest.version);
        }
        Ok(cluster)
    }

    /// Remembers what an operator orders of a service's circuit breaker, for as long as it is not taken back.
    pub(super) fn remember_order(&self, service: &ServiceName, order: Order) {
        let services = self.services.read(Arc::clone);
        self.orders.with(|orders| {
            if matches!(order, Order::Auto | Order::Reset) {
                orders.remove(service);
                return;
            }
            // Services that have gone make room for those that are there.
            if orders.len() >= self.max_services && !orders.contains_key(service) {
                orders.retain(|name, _| services.contains_key(name));
            }
            orders.insert(service.clone(), order);
        });
    }

    /// Has a circuit breaker do what was ordered of it, if anything was.
    fn obey_again(&self, cluster: &Cluster, now: Instant) -> Option<Order> {
        let order = self.orders.with(|orders| orders.get(&cluster.name).copied())?;
        cluster.look(|state| state.breaker.obey(order, now));
        Some(order)
    }

    /// Whether there may be no further service.
    pub(super) fn is_full(&self) -> bool {
        self.services.read(|services| services.len() >= self.max_services)
    }

    /// Forgets a service whose last instance has gone.
    pub(super) fn forget(&self, closed: &Arc<Cluster>) {
        self.services.update(|services| {
            if services.get(&closed.name).is_some_and(|current| Arc::ptr_eq(current, closed)) {
                Arc::make_mut(services).remove(&closed.name);
            }
        });
    }

    /// The settings, layer by layer.
    pub(super) fn layers(&self) -> Arc<Layers> {
        self.layers.read(Arc::clone)
    }

    /// Puts on top for one service what a store keeps, as far as it goes with the configuration. Answers what is wrong with it.
    pub(super) fn put_kept(&self, service: &ServiceName, put: &Put) -> Option<Invalid> {
        let set = |in_part| self.put(service, Some(Put { in_part, ..put.clone() }));
        let fault = set(false).err()?;
        // Nothing is wrong with a part that is the configuration and rules about callers.
        let _ = set(true);
        Some(fault)
    }

    /// Puts something else on top for one service, or nothing, checks what is then in force for it and applies it. Two changes at once both
    /// take effect. Costs the same however many services there are: a shared store may name very many.
    pub(super) fn put(&self, service: &ServiceName, put: Option<Put>) -> Result<(), Invalid> {
        let (policy, version) = self.layers.update(|current| {
            let named = |fault| within(&format!("services.{service}"), fault);
            let policy = current.policy_under(service, put.as_ref()).map_err(named)?;
            // Nobody keeps them for long, so that they seldom need be copied.
            let layers = Arc::make_mut(current);
            match put {
                Some(put) => drop(layers.put.insert(service.clone(), put)),
                None => drop(layers.put.remove(service)),
            }
            layers.version += 1;
            Ok((policy, layers.version))
        })?;
        if let Some(cluster) = self.find(service.as_str()) {
            cluster.set_policy(Arc::new(policy), version);
        }
        Ok(())
    }

    /// Changes the settings, checks them as a whole, and applies them to every service. Two changes at once both take effect.
    pub(super) fn change_layers(&self, change: impl FnOnce(&mut Layers)) -> Result<(), Invalid> {
        let layers = self.layers.update(|current| {
            let mut layers = Layers::clone(current);
            change(&mut layers);
            layers.check()?;
            layers.version += 1;
            *current = Arc::new(layers);
            Ok(Arc::clone(current))
        })?;
        for cluster in self.all() {
            if let Ok(policy) = layers.policy(&cluster.name) {
                cluster.set_policy(Arc::new(policy), layers.version);
            }
        }
        Ok(())
    }
}

/// A fault in a section of the settings.
fn within(section: &str, fault: Invalid) -> Invalid {
    Invalid::new(format!("{section}.{}", fault.field), fault.why)
}

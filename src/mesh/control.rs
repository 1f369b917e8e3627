//! What operators order of a service as a whole.

use super::{Mesh, RegistryError};
use crate::model::ServiceName;
use crate::policy::breaker::{Control, Order};
use crate::telemetry::events::Kind;

impl Mesh {
    /// Takes a service's circuit breaker in hand, or hands it back. Holds until told otherwise or until the mesh ends, also when all instances
    /// go and others come.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when there is no such service.
    pub fn order_breaker(&self, service: &ServiceName, order: Order) -> Result<(), RegistryError> {
        let registry = &self.inner.registry;
        registry.find(service.as_str()).ok_or(RegistryError::NotFound)?;
        // Before the service is looked for, so that it holds for one that goes and comes back meanwhile.
        registry.remember_order(service, order);
        let Some(cluster) = registry.find(service.as_str()) else { return Ok(()) };
        let now = self.inner.clock.now();
        let (changed, transition, control, next) = cluster.look(|state| {
            let (changed, transition) = state.breaker.obey(order, now);
            (changed, transition, state.breaker.control(), state.queue.head())
        });
        if changed {
            let how = match (order, control) {
                (Order::Reset, _) => "reset by an operator",
                (_, Control::ForcedOpen) => "forced open by an operator",
                (_, Control::Disabled) => "disabled by an operator",
                (_, Control::Auto) => "back to automatic by an operator",
            };
            self.inner.events.publish(Kind::Breaker, Some(service), None, format!("circuit breaker {how}"));
        }
        cluster.after(next, transition, Vec::new());
        Ok(())
    }
}

//! Places for connections, reused when they go, with keys that tell an old tenant from a new one.

/// Names a tenant of [`Slots`]; no later tenant of the same place has the same key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Key {
    at: u32,
    generation: u32,
}

impl Key {
    /// Its place: what the system is told, since events for the tenant before are over by then.
    pub(super) const fn place(self) -> u32 {
        self.at
    }

    /// The key as one number.
    pub(super) const fn bits(self) -> u64 {
        (self.generation as u64) << 32 | self.at as u64
    }

    /// The key of such a number.
    #[allow(clippy::cast_possible_truncation)] // The lower half is meant.
    pub(super) const fn of_bits(bits: u64) -> Self {
        Self { at: bits as u32, generation: (bits >> 32) as u32 }
    }
}

struct Slot<T> {
    generation: u32,
    tenant: Option<T>,
}

/// A set of `T` by [`Key`].
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// Given up, but not before [`Slots::settle`] given to anybody else.
    left: Vec<u32>,
}

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), left: Vec::new() }
    }

    /// How many tenants there are, lent ones included.
    pub(super) const fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.left.len()
    }

    pub(super) fn insert(&mut self, tenant: T) -> Key {
        if let Some(at) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(at as usize)
        {
            slot.tenant = Some(tenant);
            return Key { at, generation: slot.generation };
        }
        // There are never more connections than descriptors.
        let at = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { generation: 0, tenant: Some(tenant) });
        Key { at, generation: 0 }
    }

    /// The key of whoever is at a place now.
    pub(super) fn at(&self, place: u32) -> Option<Key> {
        self.slots.get(place as usize).map(|slot| Key { at: place, generation: slot.generation })
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot(key)?.tenant.as_mut()
    }

    /// Takes the tenant out for a while; its place stays its own until it comes back or is given up.
    pub(super) fn lend(&mut self, key: Key) -> Option<T> {
        self.slot(key)?.tenant.take()
    }

    /// Brings back what was lent.
    pub(super) fn give_back(&mut self, key: Key, tenant: T) {
        if let Some(slot) = self.slot(key) {
            slot.tenant = Some(tenant);
        }
    }

    /// Gives up a place, whose tenant may be lent.
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slot(key)?;
        slot.generation = slot.generation.wrapping_add(1);
        let tenant = slot.tenant.take();
        self.left.push(key.at);
        tenant
    }

    /// Lets places that were given up be taken again.
    pub(super) fn settle(&mut self) {
        self.free.append(&mut self.left);
    }

    /// The keys of all tenants.
    pub(super) fn keys(&self) -> Vec<Key> {
        let taken = self.slots.iter().zip(0..).filter(|(slot, _)| slot.tenant.is_some());
        taken.map(|(slot, at)| Key { at, generation: slot.generation }).collect()
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot<T>> {
        self.slots.get_mut(key.at as usize).filter(|slot| slot.generation == key.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_open_the_door_of_a_new_tenant() {
        let mut slots = Slots::new();
        let (a, b) = (slots.insert('a'), slots.insert('b'));
        assert_eq!(slots.remove(a), Some('a'));
        let c = slots.insert('c');
        assert_ne!(c.place(), a.place(), "not before it is settled");
        slots.settle();
        let d = slots.insert('d');
        assert_eq!(d.place(), a.place());
        assert_eq!((slots.get_mut(a).copied(), slots.remove(a)), (None, None));
        assert_eq!(slots.get_mut(d).copied(), Some('d'));
        assert_eq!((Key::of_bits(d.bits()), slots.at(d.place())), (d, Some(d)));
        assert_eq!(slots.keys(), [d, b, c]);
    }

    #[test]
    fn what_is_lent_keeps_its_place() {
        let mut slots = Slots::new();
        let a = slots.insert('a');
        assert_eq!(slots.lend(a), Some('a'));
        assert_eq!(slots.lend(a), None);
        slots.give_back(a, 'a');
        assert_eq!(slots.get_mut(a).copied(), Some('a'));
        slots.lend(a);
        assert_eq!(slots.remove(a), None);
        slots.give_back(a, 'a');
        assert_eq!(slots.get_mut(a), None, "it had been given up");
    }
}

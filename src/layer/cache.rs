//! Plans that were made before, by the signature of the call they are for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::signature::Signature;
use crate::Result;

/// As many plans as are kept, some kilobytes each: those of a large model's layers at a few batch
/// sizes.
const CAPACITY: usize = 256;

/// The plans used last.
pub(super) struct PlanCache<P>(Mutex<Plans<P>>);

struct Plans<P> {
    by_signature: HashMap<Signature, Entry<P>>,
    /// Look-ups so far.
    clock: u64,
}

struct Entry<P> {
    plan: Arc<P>,
    /// The look-up that last found it.
    used: u64,
}

impl<P> Default for PlanCache<P> {
    fn default() -> Self {
        Self(Mutex::new(Plans {
            by_signature: HashMap::new(),
            clock: 0,
        }))
    }
}

impl<P> PlanCache<P> {
    /// The plan for a signature, made by `plan` where there is none yet.
    pub fn get(&self, signature: &Signature, plan: impl FnOnce() -> Result<P>) -> Result<Arc<P>> {
        // A panic elsewhere leaves nothing half done in the cache.
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.clock += 1;
        let used = plans.clock;
        if let Some(entry) = plans.by_signature.get_mut(signature) {
            entry.used = used;
            return Ok(entry.plan.clone());
        }
        let plan = Arc::new(plan()?);
        plans.make_room();
        let entry = Entry {
            plan: plan.clone(),
            used,
        };
        plans.by_signature.insert(signature.clone(), entry);
        Ok(plan)
    }
}

impl<P> Plans<P> {
    fn make_room(&mut self) {
        if self.by_signature.len() < CAPACITY {
            return;
        }
        let oldest = self.by_signature.iter().min_by_key(|(_, entry)| entry.used);
        if let Some(oldest) = oldest.map(|(signature, _)| signature.clone()) {
            self.by_signature.remove(&oldest);
        }
    }
}

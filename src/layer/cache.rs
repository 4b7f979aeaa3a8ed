//! A cache of plans, keyed by the signature of their calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::signature::Signature;
use crate::{BackwardPlan, DeviceProps, ForwardPlan, Result};

/// The number of signatures whose plans are kept, a few kilobytes each. It is enough for the layers
/// of a large model at a few batch sizes.
const CAPACITY: usize = 256;

/// The plans of the most recently used signatures.
#[derive(Default)]
pub(super) struct PlanCache(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_signature: HashMap<Signature, Entry>,
    /// Look-ups so far.
    clock: u64,
}

struct Entry {
    plans: Arc<Plans>,
    /// The number of the look-up that last used it.
    used: u64,
}

/// The plans of a signature, each made when it is first needed.
#[derive(Default)]
pub(super) struct Plans {
    forward: OnceLock<Arc<ForwardPlan>>,
    backward: OnceLock<Arc<BackwardPlan>>,
}

impl PlanCache {
    pub fn of(&self, signature: &Signature) -> Arc<Plans> {
        // The cache is consistent even if a thread panicked while it held the lock.
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clock += 1;
        let used = entries.clock;
        if let Some(entry) = entries.by_signature.get_mut(signature) {
            entry.used = used;
            return entry.plans.clone();
        }
        entries.make_room();
        let plans = Arc::new(Plans::default());
        let entry = Entry {
            plans: plans.clone(),
            used,
        };
        entries.by_signature.insert(signature.clone(), entry);
        plans
    }
}

impl Entries {
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

impl Plans {
    pub fn forward(&self, signature: &Signature, props: &DeviceProps) -> Result<&Arc<ForwardPlan>> {
        if let Some(plan) = self.forward.get() {
            return Ok(plan);
        }
        let plan = ForwardPlan::new(&signature.problem()?, props)?;
        Ok(self.forward.get_or_init(|| Arc::new(plan)))
    }

    pub fn backward(
        &self,
        signature: &Signature,
        props: &DeviceProps,
    ) -> Result<&Arc<BackwardPlan>> {
        if let Some(plan) = self.backward.get() {
            return Ok(plan);
        }
        let plan = BackwardPlan::new(&signature.problem()?, props)?;
        Ok(self.backward.get_or_init(|| Arc::new(plan)))
    }
}

//! What somebody knows of one warp's accesses: up to which step each lane's are done.

/// Lanes that are known further than the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    lanes: u32,
    step: u32,
}

/// Lanes in the parts are known up to their part's step, all others up to `common`. Parts have
/// different lanes and falling steps. With more than two, the last ones count as one: that orders
/// more than the program does, never less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    common: u32,
    parts: [Part; 2],
}

impl Known {
    /// All lanes up to a step.
    pub fn all(step: u32) -> Self {
        Known {
            common: step,
            parts: [Part::default(); 2],
        }
    }

    pub fn covers(&self, lane: u32, step: u32) -> bool {
        let in_part = |part: &Part| part.lanes >> lane & 1 == 1 && step <= part.step;
        step <= self.common || step == u32::MAX || self.parts.iter().any(in_part)
    }

    pub fn covers_all(&self, step: u32) -> bool {
        step <= self.common || step == u32::MAX
    }

    /// Learns of the accesses of `lanes` up to `step`.
    pub fn raise(&mut self, lanes: u32, step: u32) {
        // The first part's step is the highest.
        if lanes == u32::MAX && step >= self.parts[0].step.max(self.common) {
            *self = Known::all(step);
        } else if step > self.common {
            let [first, second] = self.parts;
            self.set(self.common, [Part { lanes, step }, first, second]);
        }
    }

    pub fn join(&mut self, other: &Known) {
        let none = [Part::default(); 2];
        if self.parts == none && other.parts == none {
            self.common = self.common.max(other.common);
        } else if self != other {
            let ([a, b], [c, d]) = (self.parts, other.parts);
            self.set(self.common.max(other.common), [a, b, c, d]);
        }
    }

    fn set<const N: usize>(&mut self, common: u32, mut parts: [Part; N]) {
        parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.step));
        *self = Known::all(common);
        let (mut taken, mut count) = (0, 0);
        for Part { lanes, step } in parts {
            let lanes = lanes & !taken;
            if lanes == 0 || step <= common {
                continue;
            }
            taken |= lanes;
            if count > 0 && (count == 2 || self.parts[count - 1].step == step) {
                self.parts[count - 1].lanes |= lanes;
            } else {
                self.parts[count] = Part { lanes, step };
                count += 1;
            }
        }
        if taken == u32::MAX {
            let last = &mut self.parts[count - 1];
            self.common = last.step;
            *last = Part::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_known_as_far_as_somebody_said() {
        let mut known = Known::all(3);
        known.raise(1, 7);
        known.raise(6, 5);
        for (lane, step) in [(0, 7), (1, 5), (2, 5), (3, 3)] {
            assert!(known.covers(lane, step) && !known.covers(lane, step + 1));
        }
        let mut other = Known::all(4);
        other.raise(2, 6);
        other.join(&known);
        for (lane, step) in [(0, 7), (1, 6), (3, 4)] {
            assert!(other.covers(lane, step) && !other.covers(lane, step + 1));
        }
        assert!(other.covers(2, 5), "a join forgets nothing");
    }

    #[test]
    fn all_lanes_together_are_common() {
        let mut known = Known::default();
        known.raise(0xffff, 4);
        known.raise(0xffff_0000, 6);
        assert!(known.covers(3, 4) && !known.covers(3, 5) && known.covers(20, 6));
        known.raise(u32::MAX, 9);
        assert_eq!(known, Known::all(9));
    }
}

//! The handles that C programs hold: numbers in the place of pointers.
//!
//! A handle is never followed, so that any value can be judged: null, a pointer to something else,
//! a handle of another kind, one of another version or copy of the library, one that was freed. A
//! number comes again after 2^32 others only, so that a freed handle doesn't turn into that of a
//! later object, as an address of the heap does.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ptr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::version::LORA_VERSION;

/// What a handle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Kernels = 1,
    ForwardPlan = 2,
    BackwardPlan = 3,
    MergePlan = 4,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Kernels,
        Self::ForwardPlan,
        Self::BackwardPlan,
        Self::MergePlan,
    ];

    /// The function that makes one.
    pub const fn maker(self) -> &'static str {
        match self {
            Self::Kernels => "lora_kernels_load",
            Self::ForwardPlan => "lora_forward_plan_new",
            Self::BackwardPlan => "lora_backward_plan_new",
            Self::MergePlan => "lora_merge_plan_new",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernels => "lora_kernels",
            Self::ForwardPlan => "lora_forward_plan",
            Self::BackwardPlan => "lora_backward_plan",
            Self::MergePlan => "lora_merge_plan",
        })
    }
}

/// An object that C programs have handles of.
pub trait Object: Any + Send + Sync {
    /// Its type in the header.
    const KIND: Kind;
}

/// Why a pointer is no handle of a living object of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// No handle of this library in whatever version.
    Pointer,
    /// Of another version of the library.
    Version(u32),
    /// Of another kind.
    Kind(Kind),
    /// Of the right kind, but of no object that lives here.
    Gone(Kind),
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pointer => f.write_str("not a handle"),
            Self::Version(version) => {
                let [_, major, minor, patch] = version.to_be_bytes();
                write!(
                    f,
                    "a handle of version {major}.{minor}.{patch} of the library"
                )
            }
            Self::Kind(kind) => write!(f, "a {kind}"),
            Self::Gone(kind) => write!(
                f,
                "a {kind} that was freed, or that another copy of the library made"
            ),
        }
    }
}

/// The number that a handle is: from the highest bit on, 4 bits of a mark that no address of a
/// program begins with, 4 of the kind, 24 of the library's version and 32 of a serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number(u64);

impl Number {
    const MARK: u64 = 0xA;

    /// From one serial number to the next. It is odd, so that all numbers come by, and large, so
    /// that what lies a few bytes beside a handle is none: 2^32 over the golden ratio.
    const STEP: u32 = 0x9E37_79B9;

    fn new(kind: Kind, serial: u32) -> Self {
        let high = Self::MARK << 28 | u64::from(kind as u8) << 24 | u64::from(LORA_VERSION);
        Self(high << 32 | u64::from(serial))
    }

    fn of<T>(handle: *const T) -> Self {
        Self(handle.addr() as u64)
    }

    /// The kind and the serial number.
    fn parts(self) -> std::result::Result<(Kind, u32), Stranger> {
        let (mark, kind) = (self.0 >> 60, self.0 >> 56 & 0xF);
        let version = (self.0 >> 32) as u32 & 0xFF_FFFF;
        if mark != Self::MARK || kind == 0 {
            return Err(Stranger::Pointer);
        }
        if version != LORA_VERSION {
            return Err(Stranger::Version(version));
        }
        let kind = Kind::ALL.into_iter().find(|known| *known as u64 == kind);
        Ok((kind.ok_or(Stranger::Pointer)?, self.0 as u32))
    }
}

/// All objects that C programs have handles of.
struct Living {
    objects: BTreeMap<u32, Arc<dyn Any + Send + Sync>>,
    /// The serial number to try next; none before the first object. It starts anywhere, so that
    /// another copy of the library in the same process counts elsewhere.
    next: Option<u32>,
}

static LIVING: RwLock<Living> = RwLock::new(Living {
    objects: BTreeMap::new(),
    next: None,
});

fn reading() -> RwLockReadGuard<'static, Living> {
    LIVING.read().unwrap_or_else(PoisonError::into_inner)
}

fn writing() -> RwLockWriteGuard<'static, Living> {
    LIVING.write().unwrap_or_else(PoisonError::into_inner)
}

/// A new handle of an object, which lives until [`remove`].
pub fn insert<T: Object>(object: T) -> *mut T {
    let object = Arc::new(object);
    let mut living = writing();
    let mut serial = living
        .next
        .unwrap_or_else(|| RandomState::new().build_hasher().finish() as u32);
    while living.objects.contains_key(&serial) {
        serial = serial.wrapping_add(Number::STEP);
    }
    living.next = Some(serial.wrapping_add(Number::STEP));
    living.objects.insert(serial, object);
    ptr::without_provenance_mut(Number::new(T::KIND, serial).0 as usize)
}

/// The object of a handle. It outlives a [`remove`] that comes meanwhile.
pub fn find<T: Object>(handle: *const T, argument: &'static str) -> Result<Arc<T>> {
    let serial = serial(handle, argument)?;
    let object = reading().objects.get(&serial).cloned();
    living(object, argument)
}

/// Takes an object from its handle, which is none any more.
pub fn remove<T: Object>(handle: *mut T, argument: &'static str) -> Result<Arc<T>> {
    let serial = serial(handle, argument)?;
    let mut all = writing();
    let object = all.objects.get(&serial).cloned();
    let object = living(object, argument)?;
    all.objects.remove(&serial);
    Ok(object)
}

/// The serial number in a handle of this kind.
fn serial<T: Object>(handle: *const T, argument: &'static str) -> Result<u32> {
    if handle.is_null() {
        return Err(Error::NullArgument {
            argument: argument.into(),
        });
    }
    let stranger = match Number::of(handle).parts() {
        Ok((kind, serial)) if kind == T::KIND => return Ok(serial),
        Ok((kind, _)) => Stranger::Kind(kind),
        Err(stranger) => stranger,
    };
    Err(refused::<T>(argument, stranger))
}

/// The object found at a serial number. One of another kind has it where the handle is of another
/// copy of the library.
fn living<T: Object>(
    found: Option<Arc<dyn Any + Send + Sync>>,
    argument: &'static str,
) -> Result<Arc<T>> {
    let object = found.and_then(|object| object.downcast::<T>().ok());
    object.ok_or_else(|| refused::<T>(argument, Stranger::Gone(T::KIND)))
}

fn refused<T: Object>(argument: &'static str, given: Stranger) -> Error {
    Error::Handle {
        argument,
        given,
        wanted: T::KIND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Forward(u8);

    impl Object for Forward {
        const KIND: Kind = Kind::ForwardPlan;
    }

    #[derive(Debug)]
    struct Merge;

    impl Object for Merge {
        const KIND: Kind = Kind::MergePlan;
    }

    fn stranger<T: Object>(handle: *const T) -> Stranger {
        match find(handle, "plan").map(|_| ()) {
            Err(Error::Handle { given, wanted, .. }) if wanted == T::KIND => given,
            other => panic!("{other:?}"),
        }
    }

    fn changed<T>(handle: *const T, bits: u64) -> *const T {
        ptr::without_provenance((Number::of(handle).0 ^ bits) as usize)
    }

    #[test]
    fn a_handle_finds_its_object_until_it_is_removed() {
        let (first, second) = (insert(Forward(1)), insert(Forward(2)));
        assert_eq!(find(first, "plan").unwrap().0, 1);
        assert_eq!(remove(first, "plan").unwrap().0, 1);
        assert_eq!(stranger(first), Stranger::Gone(Kind::ForwardPlan));
        assert!(remove(first, "plan").is_err());
        assert_eq!(find(second, "plan").unwrap().0, 2);
        // Its memory may be the first one's, its handle is not.
        let third = insert(Forward(3));
        assert_ne!(first, third);
        remove(second, "plan").unwrap();
        remove(third, "plan").unwrap();
    }

    #[test]
    fn an_object_in_use_outlives_its_handle() {
        let handle = insert(Forward(1));
        let used = find(handle, "plan").unwrap();
        drop(remove(handle, "plan").unwrap());
        assert_eq!(used.0, 1);
        assert_eq!(Arc::strong_count(&used), 1);
    }

    #[test]
    fn what_is_no_handle_of_this_kind_is_told_apart() {
        let handle = insert(Forward(1));
        assert_eq!(
            stranger(handle.cast::<Merge>().cast_const()),
            Stranger::Kind(Kind::ForwardPlan)
        );
        // The next patch, and a version of other major and minor numbers.
        assert_eq!(
            stranger(changed(handle, 1 << 32)),
            Stranger::Version(LORA_VERSION ^ 1)
        );
        assert_eq!(
            stranger(changed(handle, 0x0203 << 40)),
            Stranger::Version(LORA_VERSION ^ 0x02_0300)
        );
        let local = 0_u64;
        for address in [1, 8, usize::MAX, ptr::from_ref(&local).addr()] {
            let handle = ptr::without_provenance::<Forward>(address);
            assert_eq!(stranger(handle), Stranger::Pointer, "{address:#x}");
        }
        assert_eq!(stranger(changed(handle, 0xF << 56)), Stranger::Pointer);
        // An address inside an object.
        let next = insert(Forward(2));
        for bytes in 1..256 {
            assert_eq!(
                stranger(handle.wrapping_byte_add(bytes).cast_const()),
                Stranger::Gone(Kind::ForwardPlan)
            );
        }
        remove(next, "plan").unwrap();
        // Another copy of the library counts from elsewhere.
        assert_eq!(
            stranger(changed(handle, 1 << 31)),
            Stranger::Gone(Kind::ForwardPlan)
        );
        // Or, seldom, from where an object of another kind is here.
        let other = changed(
            handle,
            (Kind::ForwardPlan as u64 ^ Kind::MergePlan as u64) << 56,
        );
        assert_eq!(
            stranger(other.cast::<Merge>()),
            Stranger::Gone(Kind::MergePlan)
        );
        remove(handle, "plan").unwrap();
    }

    #[test]
    fn an_error_says_what_was_given_and_what_to_give() {
        let handle = insert(Merge);
        let text = find(handle.cast::<Forward>(), "plan").map(|_| ());
        assert_eq!(
            text.unwrap_err().to_string(),
            concat!(
                "plan is a lora_merge_plan: give a lora_forward_plan that lora_forward_plan_new of \
                 this library (version ",
                env!("CARGO_PKG_VERSION"),
                ") has made and that was not freed"
            )
        );
        remove(handle, "plan").unwrap();
    }
}

//! What `LoraLinear` takes of the device's memory, and that a refused call takes none and launches
//! nothing. The memory pool and the counters belong to the process, so each test has one of its
//! own.

use half::bf16;
use lora_kernels::cudarc::driver::sys::{
    CUmemPool_attribute, cuDeviceGetDefaultMemPool, cuMemPoolGetAttribute, cuMemPoolSetAttribute,
};
use lora_kernels::{DeviceProps, Error, Mask, MatRef, WeightLayout};
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::Control;

use crate::common::case::LayerCase;
use crate::common::device::gpu;
use crate::common::layer::TestLayer;
use crate::common::short_path::{OnDevice, lora_linear};

/// Bytes that are taken from the pool, and the most that were since the last reset.
struct Pool(lora_kernels::cudarc::driver::sys::CUmemoryPool);

impl Pool {
    fn of_device() -> Self {
        let mut pool = std::ptr::null_mut();
        let device = gpu().stream.context().cu_device();
        // SAFETY: the pointer is that of a handle.
        let found = unsafe { cuDeviceGetDefaultMemPool(&mut pool, device) };
        found.result().expect("a pool");
        Self(pool)
    }

    fn get(&self, attribute: CUmemPool_attribute) -> usize {
        let mut bytes = 0u64;
        // SAFETY: these attributes are of 64 bits.
        let read = unsafe { cuMemPoolGetAttribute(self.0, attribute, (&raw mut bytes).cast()) };
        read.result().expect("an attribute");
        bytes as usize
    }

    fn used(&self) -> usize {
        self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
    }

    /// The most that a call takes at a time, beyond what is taken before it, and what it leaves.
    fn during<R>(&self, call: impl FnOnce() -> R) -> (usize, usize, R) {
        let (high, before) = (
            CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
            self.used(),
        );
        let mut zero = 0u64;
        // SAFETY: as above.
        let reset = unsafe { cuMemPoolSetAttribute(self.0, high, (&raw mut zero).cast()) };
        reset.result().expect("a reset");
        let result = call();
        (self.get(high) - before, self.used() - before, result)
    }
}

/// A pool hands out memory in pieces of this size.
const GRANULARITY: usize = 512;

fn inference_takes_no_mask() {
    let case = LayerCase::new(64, 8192, 8, 3).dropout(0.25);
    let layer = TestLayer::<bf16>::random(&case);
    let device = OnDevice::new(&layer);
    // One multiprocessor splits no tile, so there is no workspace beside which a mask is small.
    let props = (*gpu().kernels.props()).with_multiprocessors(1);
    let short = lora_linear().with_props(props);
    let (inputs, pool) = (device.inputs(), Pool::of_device());
    let plan = short.forward_plan(&inputs).expect("a plan");
    let mask = plan.saved().mask.expect("a mask").bytes;
    let y = 64 * 8 * size_of::<bf16>();
    let without_mask = plan.saved().bytes() - mask + plan.workspace_bytes() + y;
    assert!(
        mask > without_mask / 2,
        "a mask that is seen: {mask} beside {without_mask}"
    );

    let (most, left, _y) = pool.during(|| short.infer(&inputs).expect("inference runs"));
    assert!(
        most <= without_mask + 4 * GRANULARITY,
        "{most} for {without_mask}"
    );
    assert!(left <= y + GRANULARITY, "{left} for {y}");
    let (most, left, (_y, saved)) = pool.during(|| short.forward(&inputs).expect("forward runs"));
    assert!(
        most >= without_mask + mask,
        "{most} for {without_mask} and a mask of {mask}"
    );
    assert_eq!(saved.bytes(), plan.saved().bytes());
    assert!(
        left <= y + saved.bytes() + 2 * GRANULARITY,
        "{left} for {y} and {}",
        saved.bytes()
    );
    let redrawn = device.inputs().with_mask(Mask::Redrawn);
    let (most, ..) = pool.during(|| short.forward(&redrawn).expect("forward runs"));
    assert!(
        most <= without_mask + 4 * GRANULARITY,
        "{most} for {without_mask}"
    );
}

/// As the device of the tests, with one multiprocessor more.
fn another_device() -> DeviceProps {
    let props = gpu().kernels.props();
    DeviceProps::new(
        props.compute_capability(),
        props.multiprocessors() + 1,
        props.shared_per_block(),
        props.shared_per_multiprocessor(),
        props.l2_bytes(),
    )
}

fn a_refused_call_takes_nothing_and_launches_nothing() {
    let Ok(Selection::Emulated { .. }) = select() else {
        println!("counters need the emulated device");
        return;
    };
    let layer = TestLayer::<bf16>::random(&LayerCase::new(9, 40, 24, 3).dropout(0.25));
    let device = OnDevice::new(&layer);
    let (short, pool) = (lora_linear(), Pool::of_device());
    let (_, saved) = short.forward(&device.inputs()).expect("forward runs");
    let control = Control::loaded().expect("the emulated driver's counters");
    control.reset().expect("counters");
    control.count(true).expect("counters");
    let memory = gpu().stream.alloc_zeros::<bf16>(4096).expect("memory");
    let (most, left, ()) = pool.during(|| {
        let mut inputs = device.inputs();
        inputs.x = MatRef::new(memory.as_view(), 9, 41);
        assert!(short.forward(&inputs).is_err());
        assert!(short.infer(&inputs).is_err());
        assert!(short.backward(&inputs, &saved, &device.dy()).is_err());
        let other = device.inputs().with_dropout(None);
        assert!(short.backward(&other, &saved, &device.dy()).is_err());
        assert!(short.backward(&device.inputs(), &saved, &[]).is_err());
        let elsewhere = short.with_props(another_device());
        let inputs = device.inputs();
        let (weight, lora) = (&inputs.projections[0].weight, &inputs.projections[0].lora);
        let adapters: Vec<_> = lora.iter().cloned().collect();
        let dy = device.dy();
        for error in [
            elsewhere.forward(&inputs).err(),
            elsewhere.infer(&inputs).err(),
            elsewhere.backward(&inputs, &saved, &dy).err(),
            elsewhere
                .merge(weight, &adapters, WeightLayout::OutIn)
                .err(),
        ] {
            let error = error.expect("a plan of another device is refused");
            assert!(matches!(error, Error::OtherDevice { .. }), "{error}");
        }
        elsewhere.forward_plan(&inputs).expect("a plan to look at");
    });
    assert_eq!((most, left), (0, 0));
    gpu().stream.synchronize().expect("nothing faults");
    assert!(control.read().expect("counters").kernels.is_empty());
}

alone!(
    inference_takes_no_mask,
    a_refused_call_takes_nothing_and_launches_nothing,
);

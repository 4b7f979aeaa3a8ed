//! Tensor maps in parameters, constants and global memory, those that kernels change, and those
//! that can't be used.

use ptx_emulator::tensor_map::TensorMap;

use super::{Arg, FILL, Machine, matrix_map};

/// Four rows of eight words, in boxes of two rows of four.
fn map(address: u64) -> TensorMap {
    matrix_map(2, address, [8, 4], 32, [4, 2])
}

/// The whole tensor after a store of the box 1 to 8 at (4, 1).
const STORED: [u32; 32] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0,
];

const STORE: &str = "
cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd3, {4, 1}], [tile];
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;
";

/// A kernel with a tile that holds 1 to 8, whose thread 0 does `issue` to the map `map`, a copy of
/// which is in global memory at %rd4.
fn machine(issue: &str) -> Machine {
    Machine::of(&format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\
         .global .align 64 .b8 in_global[128];\n.const .align 64 .b8 in_constant[128];\n\
         .visible .entry k(.param .align 64 .b8 map[128], .param .u64 words, .param .u64 copy)\n{{\n\
         .reg .pred %p<9>;\n.reg .b32 %r<30>;\n.reg .b64 %rd<30>;\n\
         .shared .align 128 .b8 tile[128];\n.shared .align 128 .b8 own[128];\n\
         .local .align 64 .b8 local[128];\n\
         ld.param.u64 %rd1, [words];\nld.param.u64 %rd4, [copy];\nmov.u32 %r3, 32;\n{FILL}\n\
         mov.u32 %r1, %tid.x;\nsetp.ne.u32 %p2, %r1, 0;\n@%p2 bra DONE;\n{issue}\nDONE:\nret;\n}}\n"
    ))
}

/// Runs `issue` on a tensor of zeros, whose map also stands in both variables of the module.
fn run(issue: &str, change: fn(&mut TensorMap)) -> Result<Vec<u32>, String> {
    let machine = machine(issue);
    let tensor = machine.words(&[0; 32]);
    let mut map = map(tensor);
    change(&mut map);
    let encoded = map.encode().unwrap_or_else(|error| panic!("{error}"));
    let encoded: Vec<u8> = encoded.iter().flat_map(|word| word.to_le_bytes()).collect();
    for name in ["in_global", "in_constant"] {
        let (va, _) = machine.module.module_global(name).expect("the variable");
        machine.memory.write(va, &encoded).expect("in bounds");
    }
    let words: Vec<u32> = (1..=32).collect();
    let words = machine.words(&words);
    let copy = machine.bytes(&encoded);
    let args = [Arg::Map(&map), Arg::Pointer(words), Arg::Pointer(copy)];
    match machine.launch(1, 32, &args) {
        Ok(_) => Ok(machine.read_words(tensor, 32)),
        Err(fault) => Err(fault.message),
    }
}

#[test]
fn maps_are_read_from_parameters_constants_and_global_memory() {
    for place in [
        "mov.u64 %rd3, map;\ncvta.param.u64 %rd3, %rd3;",
        "mov.u64 %rd3, in_constant;\ncvta.const.u64 %rd3, %rd3;",
        "mov.u64 %rd3, in_global;\ncvta.global.u64 %rd3, %rd3;",
        "mov.u64 %rd3, %rd4;",
    ] {
        assert_eq!(
            run(&format!("{place}{STORE}"), |_| ()),
            Ok(STORED.to_vec()),
            "{place}"
        );
    }
}

#[test]
fn maps_elsewhere_or_out_of_place_are_refused() {
    for (place, words) in [
        (
            "mov.u64 %rd3, own;\ncvta.shared.u64 %rd3, %rd3;",
            "a tensor map in shared memory",
        ),
        (
            "mov.u64 %rd3, local;\ncvta.local.u64 %rd3, %rd3;",
            "a tensor map in local memory",
        ),
        ("add.u64 %rd3, %rd4, 32;", "must be a multiple of 64"),
        ("add.u64 %rd3, %rd4, 128;", "are not allocated"),
        (
            "mov.u64 %rd3, %rd1;",
            "it is none that cuTensorMapEncodeTiled makes",
        ),
    ] {
        let found = run(&format!("{place}{STORE}"), |_| ());
        assert!(
            found.as_ref().is_err_and(|fault| fault.contains(words)),
            "{place}: {found:?}"
        );
    }
}

#[test]
fn what_a_device_of_capability_9_0_lacks_is_refused_by_name() {
    const PLACE: &str = "mov.u64 %rd3, %rd4;";
    type Change = fn(&mut TensorMap);
    let cases: [(Change, &str); 5] = [
        (
            |map| map.swizzle = 4,
            "swizzle mode 4 of the tensor map needs",
        ),
        (
            |map| map.swizzle = 6,
            "swizzle mode 6 of the tensor map needs",
        ),
        (
            |map| (map.data_type, map.box_dims[0]) = (13, 32),
            "data type 13 of the tensor map needs",
        ),
        (
            |map| {
                map.interleave = 1;
                map.dims.push(1);
                map.strides.push(128);
                map.box_dims.push(1);
                map.element_strides.push(1);
            },
            "the tensor map has 3 dimensions, the instruction 2",
        ),
        (
            |map| (map.data_type, map.box_dims) = (4, vec![256, 256]),
            "no block's shared memory holds it",
        ),
    ];
    for (change, words) in cases {
        let found = run(&format!("{PLACE}{STORE}"), change);
        assert!(
            found.as_ref().is_err_and(|fault| fault.contains(words)),
            "{words}: {found:?}"
        );
    }
    let interleaved = "mov.u64 %rd3, %rd4;
        cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%rd3, {0, 0, 0}], [tile];";
    let found = run(interleaved, |map| {
        map.interleave = 1;
        map.dims.push(1);
        map.strides.push(128);
        map.box_dims.push(1);
        map.element_strides.push(1);
    });
    let words = "interleaved layout 1 of the tensor map is not supported";
    assert!(
        found.as_ref().is_err_and(|fault| fault.contains(words)),
        "{found:?}"
    );
}

/// Changes a map for other values into that of [`map`], field by field.
const REPLACE: &str = "
tensormap.replace.tile.global_address.SPACE.b1024.b64 [%rd5], %rd6;
tensormap.replace.tile.rank.SPACE.b1024.b32 [%rd5], 1;
tensormap.replace.tile.box_dim.SPACE.b1024.b32 [%rd5], 0, 4;
tensormap.replace.tile.box_dim.SPACE.b1024.b32 [%rd5], 1, 2;
tensormap.replace.tile.global_dim.SPACE.b1024.b32 [%rd5], 0, 8;
tensormap.replace.tile.global_dim.SPACE.b1024.b32 [%rd5], 1, 4;
tensormap.replace.tile.global_stride.SPACE.b1024.b64 [%rd5], 0, 32;
tensormap.replace.tile.element_stride.SPACE.b1024.b32 [%rd5], 1, 1;
tensormap.replace.tile.elemtype.SPACE.b1024.b32 [%rd5], 2;
tensormap.replace.tile.interleave_layout.SPACE.b1024.b32 [%rd5], 0;
tensormap.replace.tile.swizzle_mode.SPACE.b1024.b32 [%rd5], 0;
tensormap.replace.tile.fill_mode.SPACE.b1024.b32 [%rd5], 0;
";

/// Another region at the same address.
fn other(map: &mut TensorMap) {
    *map = TensorMap {
        data_type: 6,
        address: map.address,
        dims: vec![16, 3, 2],
        strides: vec![48, 144],
        box_dims: vec![16, 3, 1],
        element_strides: vec![1, 2, 1],
        interleave: 0,
        swizzle: 1,
        l2_promotion: 1,
        fill: 1,
    };
}

#[test]
fn every_field_of_a_map_in_global_memory_can_be_replaced() {
    let replace = REPLACE.replace("SPACE", "global");
    let issue = format!(
        "mov.u64 %rd5, %rd4;\nld.global.u64 %rd6, [%rd4+16];\n{replace}\
         fence.proxy.tensormap::generic.release.gpu;\n\
         fence.proxy.tensormap::generic.acquire.gpu [%rd4], 128;\nmov.u64 %rd3, %rd4;{STORE}"
    );
    assert_eq!(run(&issue, other), Ok(STORED.to_vec()));
}

/// Copies the map at %rd4 to shared memory, word by word.
fn to_shared() -> String {
    let copies = (0..16).map(|word| {
        let at = 8 * word;
        format!("ld.global.u64 %rd7, [%rd4+{at}];\nst.shared.u64 [own+{at}], %rd7;\n")
    });
    copies.collect()
}

#[test]
fn a_map_is_changed_in_shared_memory_and_published() {
    let issue = format!(
        "mov.u32 %r9, own;\ncvt.u64.u32 %rd5, %r9;\nld.global.u64 %rd6, [%rd4+16];\n{}{}\
         mov.u64 %rd3, in_global;\n\
         tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned \
         [%rd3], [%rd5], 128;\n\
         fence.proxy.tensormap::generic.acquire.gpu [%rd3], 128;{STORE}",
        to_shared(),
        REPLACE.replace("SPACE", "shared::cta"),
    );
    assert_eq!(run(&issue, other), Ok(STORED.to_vec()));
}

#[test]
fn a_changed_map_needs_both_fences() {
    const RELEASE: &str = "fence.proxy.tensormap::generic.release.gpu;\n";
    const ACQUIRE: &str = "fence.proxy.tensormap::generic.acquire.gpu [%rd4], 128;\n";
    let used = |before: &str, after: &str| {
        let replace = "tensormap.replace.tile.fill_mode.global.b1024.b32 [%rd4], 0;\n";
        run(
            &format!("{before}{replace}{after}mov.u64 %rd3, %rd4;{STORE}"),
            |_| (),
        )
    };
    assert_eq!(
        used("", &format!("{RELEASE}{ACQUIRE}")),
        Ok(STORED.to_vec())
    );
    for (before, after, missing) in [
        (String::new(), String::new(), "release.gpu after the change"),
        (
            format!("{RELEASE}{ACQUIRE}"),
            String::new(),
            "release.gpu after the change",
        ),
        (
            String::new(),
            ACQUIRE.to_owned(),
            "release.gpu after the change",
        ),
        (
            String::new(),
            RELEASE.to_owned(),
            "acquire.gpu of the map before the use",
        ),
    ] {
        let found = used(&before, &after);
        let fine = found.as_ref().is_err_and(|fault| {
            fault.starts_with("missing fence: the tensor map at") && fault.contains(missing)
        });
        assert!(fine, "{before}{after}: {found:?}");
    }
}

#[test]
fn a_change_that_makes_a_map_wrong_shows_when_it_is_used() {
    for (field, words) in [
        (
            "rank.global.b1024.b32 [%rd4], 7",
            "tensorRank is 8: 1 to 5 are possible",
        ),
        (
            "global_address.global.b1024.b64 [%rd4], 0x1008",
            "globalAddress is 0x1008",
        ),
        (
            "global_stride.global.b1024.b64 [%rd4], 0, 24",
            "globalStrides[0] is 24",
        ),
        (
            "box_dim.global.b1024.b32 [%rd4], 1, 257",
            "boxDim[1] is 257",
        ),
        (
            "element_stride.global.b1024.b32 [%rd4], 1, 9",
            "elementStrides[1] is 9",
        ),
        ("swizzle_mode.global.b1024.b32 [%rd4], 3", "nothing"),
    ] {
        let issue = format!(
            "tensormap.replace.tile.{field};\nfence.proxy.tensormap::generic.release.gpu;\n\
             fence.proxy.tensormap::generic.acquire.gpu [%rd4], 128;\nmov.u64 %rd3, %rd4;{STORE}"
        );
        let found = run(&issue, |_| ());
        let fine = match &found {
            Err(fault) => fault.contains(words),
            Ok(_) => words == "nothing",
        };
        assert!(fine, "{field}: {found:?}");
    }
}

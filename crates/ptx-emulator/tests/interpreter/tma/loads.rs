//! Boxes on their way to shared memory.

use ptx_emulator::tensor_map::TensorMap;

use super::boxes::{
    BF16, Case, F16, F32, F64, arguments, case, cases, coordinates, machine, tensor_bytes,
    tile_bytes,
};
use super::noise;
use super::reference::{element_bytes, elements, place};

/// What a place outside of the tensor holds in shared memory.
fn outside(map: &TensorMap) -> Vec<u8> {
    let size = element_bytes(map.data_type);
    let mut bytes = vec![if map.fill == 1 { 0xff } else { 0 }; size];
    if map.fill == 1 {
        bytes[size - 1] = 0x7f;
    }
    bytes
}

fn loaded(mut case: Case, early: bool) {
    let elements = elements(&case.map, &case.start);
    let (rank, tile) = (case.map.dims.len(), tile_bytes(&case, elements.len()));
    let size = element_bytes(case.map.data_type);
    let copy = format!(
        "@%p2 bra ISSUED;\n\
         mbarrier.init.shared::cta.b64 [bar], 1;\n\
         fence.mbarrier_init.release.cluster;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {bytes};\n\
         cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
         [tile+{to}], [%rd3, {{{at}}}], [bar];\n\
         ISSUED:\nbar.sync 0;\nWAIT:\n\
         mbarrier.try_wait.parity.shared::cta.b64 %p3, [bar], 0;\n@!%p3 bra WAIT;\n",
        bytes = elements.len() * size,
        to = case.to,
        at = coordinates(rank),
    );
    let mut machine = machine(rank, tile, &copy);
    machine.options.early_copies = early;
    let (tensor, mut expected) = (noise(3, tensor_bytes(&case.map)), noise(4, tile));
    case.map.address = machine.bytes(&tensor);
    let (before, after) = (machine.bytes(&expected), machine.bytes(&vec![0; tile]));
    machine.run(1, 32, &arguments(&case, before, after));
    for element in elements {
        let value = match element.offset {
            Some(offset) => tensor[offset..offset + size].to_vec(),
            None => outside(&case.map),
        };
        for (byte, value) in value.into_iter().enumerate() {
            let at = place(case.map.swizzle, case.to + element.within + byte as u32);
            expected[at as usize] = value;
        }
    }
    let got = machine.read(after, tile);
    assert!(got == expected, "{:?} at {:?}", case.map, case.start);
}

#[test]
fn loads_put_each_element_where_it_belongs() {
    for (index, mut case) in cases().into_iter().enumerate() {
        let float = matches!(case.map.data_type, F16 | F32 | F64 | BF16);
        case.map.fill = u32::from(float && index % 3 == 0);
        loaded(case, index % 2 == 1);
    }
}

#[test]
fn loads_of_tf32_round_and_those_with_ftz_flush() {
    const FLUSHED: u32 = 10;
    const TF32: u32 = 11;
    const TF32_FLUSHED: u32 = 12;
    // One, ties to even below and above, a carry into the exponent, subnormal, infinite.
    let values = [
        0x3f80_0000,
        0x3f80_1000,
        0x3f80_3000,
        0x3fff_ffff,
        0x0000_3001,
        0x8000_3001,
        0x7f80_0000,
        1,
    ];
    let rounded = [
        0x3f80_0000,
        0x3f80_0000,
        0x3f80_4000,
        0x4000_0000,
        0x0000_4000,
        0x8000_4000,
        0x7f80_0000,
        0,
    ];
    let zeros = |values: [u32; 8]| {
        values.map(|bits: u32| {
            if bits >> 23 & 0xff == 0 {
                bits & 1 << 31
            } else {
                bits
            }
        })
    };
    for (data_type, expected) in [
        (FLUSHED, zeros(values)),
        (TF32, rounded),
        (TF32_FLUSHED, zeros(rounded)),
        (F32, values),
    ] {
        let mut case = case(data_type, &[8], &[8], &[0]);
        let copy = "@%p2 bra ISSUED;\nmbarrier.init.shared::cta.b64 [bar], 1;\n\
            mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 32;\n\
            cp.async.bulk.tensor.1d.shared::cta.global.mbarrier::complete_tx::bytes \
            [tile], [%rd3, {%r10}], [bar];\nISSUED:\nbar.sync 0;\nWAIT:\n\
            mbarrier.try_wait.parity.shared::cta.b64 %p3, [bar], 0;\n@!%p3 bra WAIT;\n";
        let machine = machine(1, 32, copy);
        case.map.address = machine.words(&values);
        let (before, after) = (machine.bytes(&[0; 32]), machine.bytes(&[0; 32]));
        machine.run(1, 32, &arguments(&case, before, after));
        assert_eq!(
            machine.read_words(after, 8),
            expected,
            "data type {data_type}"
        );
    }
}

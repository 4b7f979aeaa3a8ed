//! Tensor maps: what is encoded comes back, and each rule of the driver API is held.

use ptx_emulator::tensor_map::TensorMap;

const F16: u32 = 6;
const SWIZZLE_128B: u32 = 3;

/// A row-major matrix of f16, 4096 x 1024, in boxes of 64 x 64.
fn matrix() -> TensorMap {
    TensorMap {
        data_type: F16,
        address: 0x7000_0000_0010,
        dims: vec![1024, 4096],
        strides: vec![2048],
        box_dims: vec![64, 64],
        element_strides: vec![1, 1],
        interleave: 0,
        swizzle: SWIZZLE_128B,
        l2_promotion: 2,
        fill: 0,
    }
}

/// A tensor of `rank` dimensions whose sizes, boxes and steps all differ.
fn tensor(rank: usize) -> TensorMap {
    TensorMap {
        dims: (0..rank as u64).map(|i| (1 << 32) - i).collect(),
        strides: (1..rank as u64).map(|i| (1 << 40) - 16 * i).collect(),
        box_dims: [64, 256, 3, 1, 255][..rank].to_vec(),
        element_strides: [1, 8, 2, 3, 4][..rank].to_vec(),
        fill: 1,
        ..matrix()
    }
}

#[test]
fn what_is_encoded_comes_back() {
    for map in [matrix()].into_iter().chain((1..=5).map(tensor)) {
        let words = map.encode().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(TensorMap::decode(&words), Some(map));
    }
    assert_eq!(TensorMap::decode(&[0; 16]), None);
}

#[test]
fn maps_of_different_regions_differ() {
    let first = matrix().encode();
    for change in [
        |map: &mut TensorMap| map.address += 16,
        |map: &mut TensorMap| map.dims[1] += 1,
        |map: &mut TensorMap| map.strides[0] += 16,
        |map: &mut TensorMap| map.box_dims[1] -= 1,
        |map: &mut TensorMap| map.element_strides[1] = 2,
        |map: &mut TensorMap| map.swizzle += 1,
        |map: &mut TensorMap| map.l2_promotion = 0,
        |map: &mut TensorMap| map.fill = 1,
        |map: &mut TensorMap| map.data_type = 9,
    ] {
        let mut map = matrix();
        change(&mut map);
        let changed = map.encode();
        assert!(changed.is_ok() && changed != first, "{map:?}");
    }
}

/// Which argument is refused after a change to [`tensor`] of rank 3, which itself is fine.
fn refused(change: fn(&mut TensorMap)) -> String {
    let mut map = tensor(3);
    map.fill = 0;
    assert_eq!(map.validate(), Ok(()));
    change(&mut map);
    map.encode()
        .map_or_else(|error| error.argument, |_| "nothing".to_owned())
}

#[test]
fn every_rule_is_held() {
    type Change = fn(&mut TensorMap);
    let cases: [(&str, Change); 27] = [
        ("tensorDataType", |m| m.data_type = 16),
        ("tensorRank", |m| m.dims = vec![]),
        ("tensorRank", |m| m.dims = vec![64; 6]),
        ("interleave", |m| m.interleave = 3),
        ("swizzle", |m| m.swizzle = 7),
        ("swizzle", |m| m.interleave = 2),
        ("l2Promotion", |m| m.l2_promotion = 4),
        ("oobFill", |m| m.fill = 2),
        ("oobFill", |m| (m.data_type, m.fill) = (1, 1)),
        ("globalAddress", |m| m.address += 8),
        ("globalAddress", |m| (m.interleave, m.swizzle) = (2, 1)),
        ("globalDim[1]", |m| m.dims[1] = 0),
        ("globalDim[2]", |m| m.dims[2] = (1 << 32) + 1),
        ("globalStrides", |m| m.strides = vec![64]),
        ("globalStrides[0]", |m| m.strides[0] = 24),
        ("globalStrides[1]", |m| m.strides[1] = 1 << 40),
        ("globalStrides[0]", |m| {
            (m.interleave, m.swizzle, m.address) = (2, 1, 0x20);
        }),
        ("boxDim", |m| m.box_dims = vec![64, 64]),
        ("boxDim[1]", |m| m.box_dims[1] = 257),
        ("boxDim[2]", |m| m.box_dims[2] = 0),
        // 18 bytes; then 144, more than the swizzle's 128.
        ("boxDim[0]", |m| m.box_dims[0] = 9),
        ("boxDim[0]", |m| m.box_dims[0] = 72),
        ("boxDim[0]", |m| m.swizzle = 2),
        ("boxDim[0]", |m| m.swizzle = 1),
        ("elementStrides[1]", |m| m.element_strides[1] = 9),
        ("elementStrides[2]", |m| m.element_strides[2] = 0),
        // Dimension 0 has a step only in an interleaved layout.
        ("elementStrides[0]", |m| {
            (m.interleave, m.element_strides[0]) = (1, 0);
        }),
    ];
    for (argument, change) in cases {
        assert_eq!(refused(change), argument);
    }
    assert_eq!(refused(|m| m.element_strides[0] = 0), "nothing");
    assert_eq!(
        refused(|m| (m.swizzle, m.box_dims[0]) = (0, 256)),
        "nothing"
    );
}

#[test]
fn packed_types_have_rules_of_their_own() {
    let packed = |data_type, inner, box_inner| TensorMap {
        data_type,
        address: 0x20,
        dims: vec![inner, 8],
        strides: vec![64],
        box_dims: vec![box_inner, 8],
        ..matrix()
    };
    let verdict = |map: TensorMap| map.validate().map_err(|error| error.argument);
    assert_eq!(verdict(packed(14, 128, 128)), Ok(()));
    assert_eq!(verdict(packed(14, 64, 128)), Err("globalDim[0]".to_owned()));
    assert_eq!(verdict(packed(15, 128, 64)), Err("boxDim[0]".to_owned()));
    assert_eq!(verdict(packed(13, 2, 32)), Ok(()));
    assert_eq!(verdict(packed(13, 3, 32)), Err("globalDim[0]".to_owned()));
    let swizzled = TensorMap {
        swizzle: 2,
        ..packed(14, 128, 128)
    };
    assert_eq!(verdict(swizzled), Err("swizzle".to_owned()));
}

#[test]
fn an_error_says_what_was_given_and_what_is_allowed() {
    let mut map = matrix();
    map.strides[0] = 2050;
    let error = map.encode().expect_err("the stride is no multiple of 16");
    assert_eq!(
        error.to_string(),
        "globalStrides[0] is 2050: it must be a multiple of 16 below 2^40"
    );
}

//! What is written is read back, and what could not be read back is not written.

use lapidary_formats::gguf::OwnedValue;
use proptest::prelude::*;

use super::*;

fn value() -> impl Strategy<Value = OwnedValue> {
    use prop::collection::vec;
    use OwnedValue::*;
    let f32s = || -1e30f32..1e30;
    let f64s = || -1e300f64..1e300;
    let scalars = prop_oneof![
        any::<u8>().prop_map(U8),
        any::<i8>().prop_map(I8),
        any::<u16>().prop_map(U16),
        any::<i16>().prop_map(I16),
        any::<u32>().prop_map(U32),
        any::<i32>().prop_map(I32),
        any::<u64>().prop_map(U64),
        any::<i64>().prop_map(I64),
        f32s().prop_map(F32),
        f64s().prop_map(F64),
        any::<bool>().prop_map(Bool),
        any::<String>().prop_map(Str),
    ];
    let arrays = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(U8s),
        vec(any::<i8>(), 0..9).prop_map(I8s),
        vec(any::<u16>(), 0..9).prop_map(U16s),
        vec(any::<i16>(), 0..9).prop_map(I16s),
        vec(any::<u32>(), 0..9).prop_map(U32s),
        vec(any::<i32>(), 0..9).prop_map(I32s),
        vec(any::<u64>(), 0..9).prop_map(U64s),
        vec(any::<i64>(), 0..9).prop_map(I64s),
        vec(f32s(), 0..9).prop_map(F32s),
        vec(f64s(), 0..9).prop_map(F64s),
        vec(any::<bool>(), 0..9).prop_map(Bools),
        vec(any::<String>(), 0..9).prop_map(Strings),
    ];
    prop_oneof![scalars, arrays]
}

/// A type, and a shape of whole blocks of that type.
fn tensor() -> impl Strategy<Value = (QuantType, Vec<usize>)> {
    let stored: Vec<QuantType> = QuantType::all().filter(|t| t.traits().stored).collect();
    let dims = prop::collection::vec(1usize..4, 1..5);
    (prop::sample::select(stored), dims).prop_map(|(ty, mut shape)| {
        shape[0] *= ty.block_len();
        (ty, shape)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        metadata in prop::collection::btree_map("[a-z]{1,8}\\.[a-z]{1,8}", value(), 0..9),
        tensors in prop::collection::vec(tensor(), 0..5),
        piece in 1usize..500,
    ) {
        let mut header = Header::new();
        for (key, value) in &metadata {
            header.set(key, value.clone());
        }
        for (i, (ty, shape)) in tensors.iter().enumerate() {
            header.add_tensor(format!("tensor.{i}"), *ty, shape).unwrap();
        }
        let bytes = write(header.clone(), piece);
        prop_assert_eq!(header.file_bytes(), bytes.len() as u64);
        prop_assert_eq!(&bytes, &write(header, 1 << 20));
        let gguf = open(&bytes).unwrap();
        prop_assert_eq!(gguf.file_bytes(), bytes.len() as u64);
        let read: Vec<_> = gguf.metadata().map(|(k, v)| (k.to_owned(), v.into())).collect();
        prop_assert_eq!(read, metadata.into_iter().collect::<Vec<(String, OwnedValue)>>());
        prop_assert_eq!(gguf.tensors().count(), tensors.len());
        for (i, (view, (ty, shape))) in gguf.tensors().zip(&tensors).enumerate() {
            prop_assert_eq!((view.ty, view.shape), (*ty, &shape[..]));
            prop_assert_eq!(view.data, contents(i, view.data.len()));
        }
    }

    #[test]
    fn bytes_changed_at_random_never_panic(
        changes in prop::collection::vec((0usize..400, any::<u8>()), 1..4),
    ) {
        let mut bytes = small().bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(gguf) = open(&bytes) {
            gguf.metadata().for_each(|(_, value)| drop((value.to_string(), OwnedValue::from(value))));
            gguf.tensors().for_each(|t| assert!(t.data.len() <= bytes.len()));
        }
    }
}

#[test]
fn a_header_refuses_what_could_not_be_read_back() {
    let mut header = Header::new();
    let mut refused =
        |name: &str, ty, shape: &[usize]| match header.add_tensor(name, ty, shape).unwrap_err() {
            GgufError::Describe(cause) => cause,
            other => panic!("{other}"),
        };
    use QuantType::*;
    assert!(matches!(refused("", F32, &[1]), Malformed::Empty { .. }));
    assert!(matches!(refused(&"n".repeat(64), F32, &[1]), Malformed::TooLong { .. }));
    assert!(matches!(refused("t", F32, &[]), Malformed::Dimensions { .. }));
    assert!(matches!(refused("t", F32, &[3, 0]), Malformed::ZeroDimension(_)));
    assert!(matches!(refused("t", Q4_K, &[32]), Malformed::RowLength { .. }));
    assert!(matches!(refused("t", Q8_K, &[256]), Malformed::TensorType { .. }));
    assert!(matches!(refused("t", F32, &[usize::MAX / 4]), Malformed::TooLarge(_)));
    header.add_tensor("t", F32, &[3]).unwrap();
    let twice = header.add_tensor("t", F32, &[3]).unwrap_err();
    assert!(matches!(twice, GgufError::Describe(Malformed::DuplicateTensor(_))));
}

#[test]
fn a_header_keeps_the_order_and_omits_the_layout_of_other_files() {
    let mut header = Header::new();
    header.set("a", 1u32);
    header.set("b", "two");
    header.set("general.alignment", 64u32);
    header.set("split.count", 3u16);
    header.set("a", -1i64);
    let gguf = open(&write(header, 1)).unwrap();
    let all: Vec<_> = gguf.metadata().map(|(k, v)| format!("{k} {} {v}", v.ty())).collect();
    assert_eq!(all, ["a i64 -1", "b str two"]);
}

#[test]
fn a_writer_counts_the_bytes() {
    let mut header = Header::new();
    header.add_tensor("a", QuantType::F32, &[3]).unwrap();
    header.add_tensor("b", QuantType::F32, &[1]).unwrap();
    let mut writer = Writer::new(Vec::new(), header).unwrap();
    let over = writer.write(&[0; 13]).unwrap_err();
    assert!(matches!(over, GgufError::TensorOverflow { ref name, extra: 1 } if name == "a"));
    writer.write(&[0; 12]).unwrap();
    writer.write(&[]).unwrap();
    writer.write(&[0; 3]).unwrap();
    let under = writer.finish().unwrap_err();
    assert!(
        matches!(under, GgufError::TensorUnderflow { ref name, written: 3, bytes: 4 } if name == "b")
    );
}

#[test]
fn a_full_disk_is_an_error() {
    let mut room = [0u8; 40];
    let mut header = Header::new();
    header.set("key", "a value that takes more than forty bytes with the header");
    assert!(matches!(Writer::new(&mut room[..], header), Err(GgufError::Write(_))));
}

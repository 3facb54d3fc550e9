//! Files of weights that are damaged or made to do harm: each is refused in words, in little time and memory.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use ddpm_testing::hostile;
use ddpm_weights::{Weights, WeightsError};
use hostile::{Random, within_bounds};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

/// Memory beyond the size of a file: buffers, and objects that are larger than the bytes that ask for them.
const MEMORY_PER_BYTE: usize = 192;
const MEMORY_AT_LEAST: usize = 1 << 20;

/// Opens the file and reads all it holds, within bounds of time and memory.
fn open(path: &Path, entry: Option<&str>) -> Result<usize, WeightsError> {
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len() as usize);
    let read = |weights: Weights| {
        weights.tensors().values().map(|tensor| tensor.read().map(|values| values.len())).sum::<Result<usize, _>>()
    };
    within_bounds(size, MEMORY_AT_LEAST, MEMORY_PER_BYTE, || Weights::open_entry(path, entry).and_then(read))
}

fn open_bytes(dir: &Path, name: &str, bytes: &[u8]) -> Result<usize, WeightsError> {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    open(&path, None)
}

/// What is said of a file that must be refused.
fn refusal(name: &str, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let said = open_bytes(dir.path(), name, bytes).unwrap_err().to_string();
    assert!(said.contains(name), "the file is named: {said}");
    said
}

/// An old file of torch.save around the pickle of an object, with one storage `s` of three f32.
fn old_file(object: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    file.extend(object);
    file.extend(b"\x80\x02]X\x01\0\0\0sa.");
    file.extend(3u64.to_le_bytes());
    file.extend([1.0f32, 2.0, 3.0].into_iter().flat_map(f32::to_le_bytes));
    file
}

/// `{"x": tensor}`, whose parts are pickled as given.
fn one_tensor(storage_len: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let storage =
        [b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0sX\x03\0\0\0cpu", storage_len, b"NtQ"].concat();
    let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], offset, shape, strides, b"\x89}tR"].concat();
    old_file(&[b"\x80\x02}X\x01\0\0\0x", &tensor[..], b"s."].concat())
}

#[test]
fn what_is_not_a_tensor_is_refused_by_name() {
    let cases: [(&[u8], &str); 15] = [
        (b"cos\nsystem\n(X\x04\0\0\0exittR.", "os.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
        (b"cbuiltins\neval\n.", "builtins.eval"),
        (b"ctorch\nload\n.", "torch.load"),
        (b"ctorch.nn.modules.linear\nLinear\n.", "torch.nn.modules.linear.Linear"),
        (b"(ios\nsystem\n.", "INST"),
        (b"ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"\x82\x01.", "EXT"),
        (b"Pwhere\n.", "PERSID"),
        (b"ctorch\nFloatStorage\n)R.", "Storage(F32)"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "OrderedDict with 1 arguments"),
        (b"K\x01}b.", "attributes"),
        (b"K\x01Q.", "persistent id"),
        (b"I1\n.", "protocol 0"),
    ];
    for (pickle, word) in cases {
        let said = refusal("x.pt", &old_file(pickle));
        assert!(said.contains("refused") && said.contains(word), "{word}: {said}");
    }
    let endless = [&b"c"[..], &[b'a'; 100_000]].concat();
    assert!(refusal("x.pt", &old_file(&endless)).contains("endless name"));
}

#[test]
fn claims_of_size_are_checked_against_the_file() {
    let text = refusal("x.pt", &old_file(b"X\xff\xff\xff\xff."));
    assert!(text.contains("claims 4294967295 bytes"), "{text}");
    assert!(refusal("x.pt", &old_file(b"B\xff\xff\xff\x7f.")).contains("claims"));
    assert!(refusal("x.pt", &old_file(b"\x8a\xff.")).contains("255 bytes"));

    let fits = one_tensor(b"K\x03", b"K\x00", b"K\x03\x85", b"K\x01\x85");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open_bytes(dir.path(), "x.pt", &fits).unwrap(), 3);
    let huge: &[u8] = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let parts: [[&[u8]; 4]; 9] = [
        [b"K\x03", b"K\x01", b"K\x03\x85", b"K\x01\x85"],
        [b"K\x03", huge, b"K\x01\x85", b"K\x01\x85"],
        [b"K\x03", b"K\x00", &[huge, b"\x85"].concat(), b"K\x01\x85"],
        [b"K\x03", b"K\x00", &[huge, huge, b"\x86"].concat(), b"K\x01K\x01\x86"],
        [b"K\x03", b"K\x00", b"K\x02\x85", &[huge, b"\x85"].concat()],
        [huge, b"K\x00", b"K\x03\x85", b"K\x01\x85"],
        [b"K\x04", b"K\x00", b"K\x03\x85", b"K\x01\x85"],
        // A million times the same value, and fewer steps than dimensions.
        [b"K\x03", b"K\x00", b"J\x40\x42\x0f\x00\x85", b"K\x00\x85"],
        [b"K\x03", b"K\x00", b"K\x03\x85", b")"],
    ];
    for [len, offset, shape, strides] in parts {
        refusal("x.pt", &one_tensor(len, offset, shape, strides));
    }
    for negative in [b"J\xff\xff\xff\xff\x85".as_slice(), b"N\x85"] {
        assert!(refusal("x.pt", &one_tensor(b"K\x03", b"K\x00", negative, b"K\x01\x85")).contains("no offset, shape"));
    }
}

#[test]
fn depth_and_cycles_cost_nothing() {
    let deep_tuple = [&b")"[..], &vec![b'\x85'; 1_000_000], b"."].concat();
    let deep_list = [vec![b']'; 500_000], vec![b'a'; 499_999], b".".to_vec()].concat();
    let wide = [vec![b'}'; 1_000_000], b".".to_vec()].concat();
    let cycle = b"}q\0X\x01\0\0\0ah\0s.".to_vec();
    let list_cycle = b"]q\0h\0h\0h\0\x86h\0\x86a.".to_vec();
    for pickle in [deep_tuple, deep_list, wide, cycle] {
        assert!(refusal("x.pt", &old_file(&pickle)).contains("no tensor lies in the storage"));
    }
    refusal("x.pt", &old_file(&list_cycle));
    let endless = vec![b'N'; 5_000_000];
    assert!(refusal("x.pt", &old_file(&endless)).contains("instructions"));
    for stack in [&b"."[..], b"s.", b"t.", b"(0.", b"R.", b"h\x07.", b"(K\x01u.", b"}K\x01u.", b"(."] {
        refusal("x.pt", &old_file(stack));
    }
}

/// A zip archive of files; a wide one has its numbers in the fields for those that do not fit 32 bits.
fn archive(files: &[(&str, &[u8])], method: u16, wide: bool) -> Vec<u8> {
    const TOO_LARGE: [u8; 4] = [0xff; 4];
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let (start, len) = (bytes.len(), content.len());
        let header = |len: [u8; 4], extra: usize| {
            let mut header = vec![0; 2]; // flags
            header.extend(method.to_le_bytes());
            header.extend([0; 8]); // time, checksum
            header.extend([len, len].concat());
            header.extend((name.len() as u16).to_le_bytes());
            header.extend((extra as u16).to_le_bytes());
            header
        };
        let short = |number: usize| if wide { TOO_LARGE } else { (number as u32).to_le_bytes() };
        let extra = match wide {
            true => [&[1, 0, 24, 0], [len, len, start].map(|n| (n as u64).to_le_bytes()).as_flattened()].concat(),
            false => Vec::new(),
        };
        bytes.extend(b"PK\x03\x04\x14\0");
        bytes.extend(header((len as u32).to_le_bytes(), 0));
        bytes.extend(name.as_bytes());
        bytes.extend(*content);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend(header(short(len), extra.len()));
        directory.extend([0; 10]);
        directory.extend(short(start));
        directory.extend(name.as_bytes());
        directory.extend(extra);
    }
    let (start, count) = (bytes.len(), files.len());
    bytes.extend(&directory);
    let end = [count, count].map(|n| (n as u16).to_le_bytes()).concat();
    let end = [end, [directory.len(), start].map(|n| (n as u32).to_le_bytes()).concat()].concat();
    if wide {
        let record = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0");
        bytes.extend([0; 12]);
        bytes.extend([count, count, directory.len(), start].map(|n| (n as u64).to_le_bytes()).as_flattened());
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(record.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
    }
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(if wide { vec![0xff; 12] } else { end });
    bytes.extend([0; 2]);
    bytes
}

/// One tensor of one value, as torch.save packs it.
const GOOD: [(&str, &[u8]); 3] = [("a/data.pkl", PICKLE), ("a/byteorder", b"little"), ("a/data/0", &[0, 0, 128, 63])];
const PICKLE: &[u8] =
    b"\x80\x02}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
    X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQK\0))\x89}tRs.";

#[test]
fn archives_that_are_not_of_torch_save_are_refused() {
    let good = GOOD;
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open_bytes(dir.path(), "x.pt", &archive(&good, 0, false)).unwrap(), 1);
    assert_eq!(open_bytes(dir.path(), "x.pt", &archive(&good, 0, true)).unwrap(), 1);
    let with = |changed: &[(&str, &[u8])], method| refusal("x.pt", &archive(changed, method, false));

    assert!(with(&good, 8).contains("is compressed"));
    assert!(with(&[good[0], ("a/byteorder", b"big"), good[2]], 0).contains("byte order"));
    assert!(with(&[good[0], good[1]], 0).contains("storage \"0\" is not in the file"));
    assert!(with(&[good[0], good[1], ("a/data/0", &[0; 5])], 0).contains("1 values of F32, but has 5 bytes"));
    assert!(with(&[good[0], good[2], good[2]], 0).contains("twice"));
    assert!(with(&[good[0], ("b/data.pkl", b".")], 0).contains("one NAME/data.pkl"));
    assert!(with(&[("readme.txt", b"")], 0).contains("one NAME/data.pkl"));
    let mut far = archive(&good, 0, false);
    let local = far.len() - 22 - 8 - 4; // where the last record says that its file begins
    far[local..local + 4].copy_from_slice(&0x7fff_fff0u32.to_le_bytes());
    assert!(refusal("x.pt", &far).contains("no header where"));
}

/// A safetensors file with this header.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_must_account_for_every_byte() {
    let cases = [
        (r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#, 9, "accounts for"),
        (r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#, 7, "accounts for"),
        (r#"{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}"#, 8, "does not fit"),
        (r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}"#, 8, "does not take the 8 bytes"),
        (r#"{"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}"#, 8, "F8_E4M3"),
        (r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}"#, 8, "the one before ends at 0"),
        (r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}"#, 8, "8 to 4"),
        (r#"{"a": {"dtype": "F32", "shape": [18446744073709551615, 2], "data_offsets": [0, 8]}}"#, 8, "does not fit"),
        (r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}"#, 8, "header is wrong"),
        (r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 18446744073709551615]}}"#, 8, "accounts for"),
        (
            r#"{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "b": {"dtype": "U8", "shape": [6], "data_offsets": [2, 8]}}"#,
            8,
            "the one before ends at 4",
        ),
        ("[]", 8, "header is wrong"),
    ];
    for (header, data, word) in cases {
        let said = refusal("x.safetensors", &with_header(header, data));
        assert!(said.contains(word), "{word}: {said}");
    }
    let nested = "[".repeat(100_000);
    assert!(refusal("x.safetensors", &with_header(&nested, 0)).contains("header is wrong"));
    assert!(refusal("x.safetensors", &u64::MAX.to_le_bytes()).contains("would take"));
    assert!(refusal("x.safetensors", b"").contains("shorter"));
    assert!(refusal("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid").contains("git lfs pull"));
    assert!(refusal("x.bin", b"hello").contains("neither"));
}

fn small_safetensors() -> Vec<u8> {
    let data = [0u8; 48];
    let view = |shape: &[usize], dtype| TensorView::new(dtype, shape.to_vec(), &data).unwrap();
    let views =
        [("a.weight", view(&[3, 4], Dtype::F32)), ("b", view(&[24], Dtype::BF16)), ("c", view(&[6], Dtype::I64))];
    safetensors::serialize(views, None).unwrap()
}

/// Thousands of damaged files of every kind. Few open; none panics, hangs or takes memory that it should not.
#[test]
fn damage_is_survived() {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
    let read = |name: &str| std::fs::read(peers.join(name)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.safetensors"), small_safetensors()).unwrap();
    let map = |key: &str| (key.to_string(), "s.safetensors".to_string());
    let index = json!({"weight_map": std::collections::BTreeMap::from(["a.weight", "b", "c"].map(map))}).to_string();
    let wide = archive(&GOOD, 0, true);
    // With the entry to open, and how much of the file is damaged: where there are many values, all but a few bytes
    // of damage would only change these.
    let guided = read("ema_0.9999_000001.pt");
    let files = [
        ("odd.pt", read("odd.pt"), Some("state_dict"), usize::MAX, 1200_usize),
        ("wide.pt", wide, None, usize::MAX, 1200),
        ("odd_legacy.pt", read("odd_legacy.pt"), Some("state_dict"), usize::MAX, 1200),
        ("small.safetensors", small_safetensors(), None, usize::MAX, 1200),
        ("small.safetensors.index.json", index.into_bytes(), None, usize::MAX, 800),
        ("one.pt", one_tensor(b"K\x03", b"K\x00", b"K\x03\x85", b"K\x01\x85"), None, usize::MAX, 1200),
        ("guided.pt", guided, None, 24_000, 100),
    ];
    let mut random = Random(20_261_121);
    for (name, whole, entry, damaged, count) in files {
        let path: PathBuf = dir.path().join(name);
        let (start, rest) = whole.split_at(damaged.min(whole.len()));
        std::fs::write(&path, &whole).unwrap();
        open(&path, entry).unwrap();
        let mut opened = 0;
        for _ in 0..count {
            let mut bytes = start.to_vec();
            random.damage(&mut bytes);
            bytes.extend(rest);
            std::fs::write(&path, &bytes).unwrap();
            opened += usize::from(open(&path, entry).is_ok());
        }
        println!("{name}: {opened} of {count} damaged files still open");
    }
}

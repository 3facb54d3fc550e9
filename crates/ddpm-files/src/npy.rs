//! NumPy's array file: f32 in version 1.0 out, f32 and f64 in any version in.

/// The bytes of a `.npy` file that holds `values` in row-major order.
pub fn encode(shape: &[usize], values: &[f32]) -> Vec<u8> {
    debug_assert_eq!(shape.iter().product::<usize>(), values.len());
    let tuple = match shape {
        // A tuple of one needs its comma.
        [size] => format!("({size},)"),
        sizes => format!("({})", sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple}, }}");
    // Ten bytes stand before the header; NumPy wants the data to begin at a multiple of 64.
    let padding = 63 - (10 + header.len()) % 64;
    header.push_str(&" ".repeat(padding));
    header.push('\n');

    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Shape and values, in row-major order, of a `.npy` file of f32 or f64; or what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>), String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("not a .npy file")?;
    let wide = rest.first().is_some_and(|version| *version > 1);
    let digits = if wide { 4 } else { 2 };
    let length = rest.get(2..2 + digits).ok_or("the file ends in its header")?;
    let length = length.iter().rev().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    let start = 2 + digits;
    let header = start.checked_add(length).and_then(|end| rest.get(start..end)).ok_or("the file ends in its header")?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text")?;
    let field = |name: &str| header.split_once(&format!("'{name}':")).map(|(_, after)| after.trim_start());
    if !field("fortran_order").is_some_and(|order| order.starts_with("False")) {
        return Err("expected an array in row-major order (fortran_order False)".into());
    }
    let shape = field("shape").and_then(|after| after.strip_prefix('(')?.split_once(')')).ok_or("it has no shape")?.0;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape: Vec<usize> =
        sizes.map(|size| size.parse().map_err(|_| format!("its shape has a size {size}"))).collect::<Result<_, _>>()?;
    let data = &rest[start + length..];
    let values: Vec<f32> = match field("descr") {
        Some(kind) if kind.starts_with("'<f4'") => words(data, f32::from_le_bytes),
        Some(kind) if kind.starts_with("'<f8'") => words(data, |word| f64::from_le_bytes(word) as f32),
        kind => return Err(format!("expected '<f4' or '<f8', found {}", kind.unwrap_or("nothing"))),
    };
    match shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size)) {
        Some(count) if count == values.len() => Ok((shape, values)),
        _ => Err(format!("it holds {} values, but its shape is {shape:?}", values.len())),
    }
}

/// The numbers of little-endian words.
pub fn words<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|word| number(*word)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_numpy_writes() {
        for shape in [vec![2, 3], vec![6], vec![1, 2, 3, 1]] {
            let bytes = encode(&shape, &[0.0, 1.0, 2.0, 3.0, 4.0, -5.5]);
            let data = bytes.len() - 6 * 4;
            assert_eq!(data % 64, 0);
            assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
            assert_eq!(u16::from_le_bytes([bytes[8], bytes[9]]) as usize, data - 10);
            assert_eq!(bytes[data - 1], b'\n');
            assert_eq!(&bytes[bytes.len() - 4..], (-5.5_f32).to_le_bytes());
        }
        for (shape, tuple) in [(vec![6], "(6,)"), (vec![2, 3], "(2, 3)")] {
            let text = String::from_utf8_lossy(&encode(&shape, &[0.0; 6])).into_owned();
            let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple}, }}");
            assert!(text.contains(&header), "{text}");
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let values = [0.0, 1.0, 2.0, 3.0, 4.0, -5.5];
        for shape in [vec![2, 3], vec![6], vec![1, 2, 3, 1]] {
            assert_eq!(decode(&encode(&shape, &values)).unwrap(), (shape, values.to_vec()));
        }
        // f64 in version 2.0, as NumPy writes long headers.
        let header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n";
        let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        bytes.extend([0.5f64, -2.0].iter().flat_map(|value| value.to_le_bytes()));
        assert_eq!(decode(&bytes).unwrap(), (vec![2], vec![0.5, -2.0]));
    }

    #[test]
    fn broken_files_are_refused() {
        let whole = encode(&[2, 3], &[0.0; 6]);
        for end in [0, 5, 9, 20, whole.len() - 1] {
            assert!(decode(&whole[..end]).is_err(), "{end}");
        }
        let with = |from: &str, to: &str| {
            let text: Vec<u8> = whole.clone();
            let at = text.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
            let mut changed = text[..at].to_vec();
            changed.extend(to.as_bytes());
            changed.extend(&text[at + from.len()..]);
            decode(&changed).unwrap_err()
        };
        assert!(with("<f4", ">f4").contains(">f4"));
        assert!(with("False", "True ").contains("row-major"));
        assert!(with("(2, 3)", "(2, 9)").contains("6 values"));
        assert!(with("(2, 3)", "(2,-3)").contains("-3"));
        let huge = u64::MAX.to_string();
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({huge}, {huge}), }}");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        assert!(decode(&bytes).unwrap_err().contains("shape"));
    }
}

//! NumPy's array file, version 1.0, for f32.

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

#[cfg(test)]
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
}

//! The CRC-32 of files.
//!
//! It guards against accidents (a bad sector, a torn copy, a full disk, an edit that was forgotten), not against
//! forgery.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The CRC-32 of all that a reader gives.
pub fn crc32(mut source: impl Read) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The CRC-32 of a file in eight hexadecimal digits, as lists of checksums write it.
pub fn of_file(path: &Path) -> io::Result<String> {
    Ok(hex(crc32(File::open(path)?)?))
}

/// Eight hexadecimal digits.
pub fn hex(crc: u32) -> String {
    format!("{crc:08x}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogues_comes_out_in_one_piece_and_in_two() {
        // CRC-32/ISO-HDLC of "123456789".
        assert_eq!(hex(crc32(&b"123456789"[..]).unwrap()), "cbf43926");
        assert_eq!(crc32(b"1234".chain(&b"56789"[..])).unwrap(), 0xcbf4_3926);
        assert_eq!(hex(crc32(io::empty()).unwrap()), "00000000");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("digits"), "123456789").unwrap();
        assert_eq!(of_file(&dir.path().join("digits")).unwrap(), "cbf43926");
        assert_eq!(of_file(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

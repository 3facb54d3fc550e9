//! The event file that TensorBoard reads: TFRecords, each holding an `Event` in the wire format of protocol buffers.
//!
//! It says what `metrics.jsonl` says. A start of the trainer writes it anew from there, so that it has no steps that a
//! resumed run took back.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use ddpm_files::runs::RunFolder;

use crate::metrics::read_lines;

/// An event file that is being written.
pub struct EventFile(File);

impl EventFile {
    /// Writes the file of a run from its metrics so far.
    pub fn rebuild(run: &RunFolder) -> std::io::Result<Self> {
        let dir = run.0.join("tensorboard");
        std::fs::create_dir_all(&dir)?;
        let path = dir.join("events.out.tfevents.0.ddpm");
        let mut events = Self::create(&path)?;
        for line in read_lines(&run.metrics())? {
            let values: Vec<(&str, f64)> = line.iter().map(|(name, value)| (&name[..], *value)).collect();
            events.write(&values)?;
        }
        Ok(events)
    }

    fn create(path: &Path) -> std::io::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&record(&[double(1, 0.0), bytes(3, b"brain.Event:2")].concat()))?;
        Ok(Self(file))
    }

    /// Adds a line of metrics, with a single write.
    pub fn write(&mut self, values: &[(&str, f64)]) -> std::io::Result<()> {
        let value_of = |wanted: &str| values.iter().find(|(name, _)| *name == wanted).map_or(0.0, |(_, value)| *value);
        let scalars = values.iter().filter(|(name, _)| !["step", "time"].contains(name));
        let summary: Vec<u8> = scalars
            .flat_map(|(name, value)| bytes(1, &[bytes(1, name.as_bytes()), float(2, *value)].concat()))
            .collect();
        let step = [tag(2, 0), varint(value_of("step") as u64)].concat();
        self.0.write_all(&record(&[double(1, value_of("time")), step, bytes(5, &summary)].concat()))
    }
}

/// Length, checksum of the length, data, checksum of the data.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// Rotated and shifted, so that the checksum of data that hold checksums is no special case.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with the polynomial of Castagnoli, bits reflected.
fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !data.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// The number of a field together with how it is written: 0 a varint, 1 eight bytes, 2 a length and bytes, 5 four bytes.
fn tag(field: u64, wire_type: u64) -> Vec<u8> {
    varint(field << 3 | wire_type)
}

fn double(field: u64, value: f64) -> Vec<u8> {
    [tag(field, 1), value.to_le_bytes().to_vec()].concat()
}

fn float(field: u64, value: f64) -> Vec<u8> {
    [tag(field, 5), (value as f32).to_le_bytes().to_vec()].concat()
}

fn bytes(field: u64, data: &[u8]) -> Vec<u8> {
    [tag(field, 2), varint(data.len() as u64), data.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        // Appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_are_written_as_the_encoding_guide_shows() {
        assert_eq!([tag(1, 0), varint(150)].concat(), [0x08, 0x96, 0x01]);
        assert_eq!(bytes(2, b"testing"), [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
    }
}

//! The directory of a zip archive whose files are stored as they are, as `torch.save` stores them.
//!
//! Only the directory is read. What is compressed, encrypted, or lies elsewhere than in the file is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// No directory of a real checkpoint comes near this.
const LARGEST_DIRECTORY: u64 = 64 << 20;
/// The end record without, and with the longest possible comment.
const END: usize = 22;
const END_WITH_COMMENT: u64 = END as u64 + u16::MAX as u64;

/// Where a file of the archive lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Why the archive cannot be read.
pub(super) enum ZipError {
    Io(std::io::Error),
    Broken(String),
}

impl From<std::io::Error> for ZipError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn broken<T>(reason: impl Into<String>) -> Result<T, ZipError> {
    Err(ZipError::Broken(reason.into()))
}

/// All files of the archive by name.
pub(super) fn directory(file: &mut File) -> Result<BTreeMap<String, Range>, ZipError> {
    let size = file.metadata()?.len();
    let (count, directory_len, directory_start, limit) = end_record(file, size)?;
    let fits = directory_start.checked_add(directory_len).is_some_and(|end| end <= limit);
    if directory_len > LARGEST_DIRECTORY || !fits {
        return broken(format!("its zip directory would take {directory_len} bytes from {directory_start} on"));
    }
    let bytes = read_at(file, directory_start, directory_len as usize)?;

    let mut files = BTreeMap::new();
    let mut rest = &bytes[..];
    for _ in 0..count {
        let (name, header, record_len) = entry(rest)?;
        rest = &rest[record_len..];
        let start = data_start(file, &name, header.header_start, directory_start)?;
        if start.checked_add(header.len).is_none_or(|end| end > directory_start) {
            return broken(format!("{name} would take {} bytes from {start} on", header.len));
        }
        if files.insert(name.clone(), Range { start, len: header.len }).is_some() {
            return broken(format!("{name} is in the archive twice"));
        }
    }
    Ok(files)
}

/// Number of files, length and start of the directory, and where it must end at the latest.
fn end_record(file: &mut File, size: u64) -> Result<(u64, u64, u64, u64), ZipError> {
    let len = size.min(END_WITH_COMMENT);
    let tail = read_at(file, size - len, len as usize)?;
    let is_end = |at: usize| {
        tail[at..].starts_with(b"PK\x05\x06") && at + END + usize::from(u16_at(&tail, at + 20)) == tail.len()
    };
    let Some(at) = (0..=tail.len().saturating_sub(END)).rev().find(|&at| tail.len() >= END && is_end(at)) else {
        return broken("its zip directory is missing; the file was cut short or changed");
    };
    let end = size - len + at as u64;
    let short =
        (u64::from(u16_at(&tail, at + 10)), u64::from(u32_at(&tail, at + 12)), u64::from(u32_at(&tail, at + 16)));
    if short.0 != u64::from(u16::MAX) && short.1 != u64::from(u32::MAX) && short.2 != u64::from(u32::MAX) {
        return Ok((short.0, short.1, short.2, end));
    }
    // Numbers that do not fit stand in a longer record, which a locator of 20 bytes points at.
    let Some(locator) = end.checked_sub(20) else { return broken("its zip64 locator is missing") };
    let locator = read_at(file, locator, 20)?;
    let start = u64_at(&locator, 8);
    if !locator.starts_with(b"PK\x06\x07") || start.checked_add(56).is_none_or(|record_end| record_end > end) {
        return broken("its zip64 locator is missing or wrong");
    }
    let record = read_at(file, start, 56)?;
    if !record.starts_with(b"PK\x06\x06") {
        return broken("its zip64 record is missing");
    }
    Ok((u64_at(&record, 32), u64_at(&record, 40), u64_at(&record, 48), start))
}

struct Entry {
    header_start: u64,
    len: u64,
}

/// One record of the directory, and its length.
fn entry(bytes: &[u8]) -> Result<(String, Entry, usize), ZipError> {
    if bytes.len() < 46 || !bytes.starts_with(b"PK\x01\x02") {
        return broken("its zip directory is damaged");
    }
    let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| usize::from(u16_at(bytes, at)));
    let record_len = 46 + name_len + extra_len + comment_len;
    if record_len > bytes.len() {
        return broken("its zip directory is damaged");
    }
    let name = match std::str::from_utf8(&bytes[46..46 + name_len]) {
        Ok(name) => name.to_string(),
        Err(_) => return broken("a name in its zip directory is not UTF-8"),
    };
    if u16_at(bytes, 8) & 1 != 0 {
        return broken(format!("{name} is encrypted"));
    }
    if u16_at(bytes, 10) != 0 {
        return broken(format!("{name} is compressed; torch.save stores files as they are"));
    }
    let mut numbers = [24, 20, 42].map(|at| u64::from(u32_at(bytes, at)));
    if numbers.contains(&u64::from(u32::MAX)) {
        widen(&mut numbers, &bytes[46 + name_len..46 + name_len + extra_len]);
    }
    let [len, packed, header_start] = numbers;
    if len != packed {
        return broken(format!("{name} takes {packed} bytes for {len}"));
    }
    Ok((name, Entry { header_start, len }, record_len))
}

/// Replaces the numbers that did not fit by those of the zip64 field.
fn widen(numbers: &mut [u64; 3], mut extra: &[u8]) {
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(mut field) = extra.get(4..4 + len) else { return };
        if id == 1 {
            for number in numbers.iter_mut().filter(|number| **number == u64::from(u32::MAX)) {
                let Some((wide, rest)) = field.split_at_checked(8) else { return };
                *number = u64_at(wide, 0);
                field = rest;
            }
            return;
        }
        extra = &extra[4 + len..];
    }
}

/// Where a file's bytes begin: behind its own header, which must have the same name.
fn data_start(file: &mut File, name: &str, header_start: u64, limit: u64) -> Result<u64, ZipError> {
    let wrong = || ZipError::Broken(format!("{name} has no header where the zip directory says"));
    let name_end = header_start.checked_add(30 + name.len() as u64).filter(|&end| end <= limit).ok_or_else(wrong)?;
    let header = read_at(file, header_start, 30 + name.len())?;
    let own_name = usize::from(u16_at(&header, 26)) == name.len() && header[30..] == *name.as_bytes();
    if !header.starts_with(b"PK\x03\x04") || !own_name {
        return Err(wrong());
    }
    Ok(name_end + u64::from(u16_at(&header, 28)))
}

/// Reads bytes that are known to be few.
fn read_at(file: &mut File, start: u64, len: usize) -> Result<Vec<u8>, ZipError> {
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

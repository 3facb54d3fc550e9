//! Zip archives, read and never unpacked: the directory entry by entry, and the bytes of one file when asked for.
//!
//! Files may be stored or deflated, with the fields for more than 32 bits or without. What is encrypted, damaged or
//! lies elsewhere than in the archive is refused. A name is a name and no path on this machine.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use flate2::bufread::DeflateDecoder;

/// The end record without, and with the longest possible comment.
const END: usize = 22;
const END_WITH_COMMENT: u64 = END as u64 + u16::MAX as u64;
/// A record of the directory without its name, and a file's own header without its.
const RECORD: usize = 46;
const HEADER: usize = 30;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// A file of the archive, as the directory tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes that it takes in the archive.
    pub packed: u64,
    /// Bytes that come out.
    pub len: u64,
    crc: u32,
    method: u16,
    header_start: u64,
}

/// Why the archive cannot be read.
#[derive(Debug)]
pub enum ZipError {
    /// The system refused.
    Io(std::io::Error),
    /// It is damaged, or of a kind that is not read.
    Broken(String),
}

impl std::fmt::Display for ZipError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Broken(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for ZipError {}

impl From<std::io::Error> for ZipError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn broken<T>(reason: impl Into<String>) -> Result<T, ZipError> {
    Err(ZipError::Broken(reason.into()))
}

/// Shows every file of the archive and its name, in the order of the directory. Folders are left out.
pub fn for_each(
    file: &mut File,
    mut visit: impl FnMut(String, Member) -> Result<(), ZipError>,
) -> Result<(), ZipError> {
    let size = file.metadata()?.len();
    let (count, directory_len, directory_start, limit) = end_record(file, size)?;
    let fits = directory_start.checked_add(directory_len).is_some_and(|end| end <= limit);
    if !fits {
        return broken(format!("its zip directory would take {directory_len} bytes from {directory_start} on"));
    }
    file.seek(SeekFrom::Start(directory_start))?;
    let mut directory = BufReader::new(file).take(directory_len);
    for _ in 0..count {
        let (name, member) = record(&mut directory)?;
        if !name.ends_with('/') {
            visit(name, member)?;
        }
    }
    Ok(())
}

impl Member {
    /// Whether its bytes lie in the archive as they are.
    pub fn is_stored(&self) -> bool {
        self.method == STORED && self.packed == self.len
    }

    /// Where its bytes begin: behind its own header, which must have the same name.
    pub fn start(&self, file: &mut File, name: &str) -> Result<u64, ZipError> {
        let wrong = || ZipError::Broken(format!("{name} has no header where the zip directory says"));
        let size = file.metadata()?.len();
        let name_end = self.header_start.checked_add((HEADER + name.len()) as u64);
        let name_end = name_end.filter(|&end| end <= size).ok_or_else(wrong)?;
        let header = read_at(file, self.header_start, HEADER + name.len())?;
        let own_name = usize::from(u16_at(&header, 26)) == name.len() && header[HEADER..] == *name.as_bytes();
        if !header.starts_with(b"PK\x03\x04") || !own_name {
            return Err(wrong());
        }
        let start = name_end + u64::from(u16_at(&header, 28));
        if start.checked_add(self.packed).is_none_or(|end| end > size) {
            return broken(format!("{name} would take {} bytes from {start} on", self.packed));
        }
        Ok(start)
    }

    /// Its bytes, which must be at most `most` and fit their checksum.
    pub fn read(&self, file: &mut File, name: &str, most: u64) -> Result<Vec<u8>, ZipError> {
        if self.len > most {
            return broken(format!("{name} would have {} bytes; at most {most} are read", self.len));
        }
        let start = self.start(file, name)?;
        file.seek(SeekFrom::Start(start))?;
        let packed = BufReader::new(file.take(self.packed));
        let mut bytes = Vec::new();
        // One more than claimed, to notice what goes on.
        let wanted = self.len + 1;
        match self.method {
            STORED => packed.take(wanted).read_to_end(&mut bytes),
            DEFLATED => DeflateDecoder::new(packed).take(wanted).read_to_end(&mut bytes),
            other => return broken(format!("{name} is compressed by method {other}; deflate and none are read")),
        }
        .map_err(|error| ZipError::Broken(format!("{name} is damaged: {error}")))?;
        if bytes.len() as u64 != self.len || crc32fast::hash(&bytes) != self.crc {
            return broken(format!("{name} is damaged: its bytes are not those that the zip directory tells of"));
        }
        Ok(bytes)
    }
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

/// One record of the directory.
fn record(directory: &mut impl Read) -> Result<(String, Member), ZipError> {
    let damaged = |_| ZipError::Broken("its zip directory is damaged".into());
    let mut fixed = [0; RECORD];
    directory.read_exact(&mut fixed).map_err(damaged)?;
    if !fixed.starts_with(b"PK\x01\x02") {
        return broken("its zip directory is damaged");
    }
    let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| usize::from(u16_at(&fixed, at)));
    let mut rest = vec![0; name_len + extra_len + comment_len];
    directory.read_exact(&mut rest).map_err(damaged)?;
    let name = match std::str::from_utf8(&rest[..name_len]) {
        Ok(name) => name.to_string(),
        Err(_) => return broken("a name in its zip directory is not UTF-8"),
    };
    if u16_at(&fixed, 8) & 1 != 0 {
        return broken(format!("{name} is encrypted"));
    }
    let mut numbers = [24, 20, 42].map(|at| u64::from(u32_at(&fixed, at)));
    if numbers.contains(&u64::from(u32::MAX)) {
        widen(&mut numbers, &rest[name_len..name_len + extra_len]);
    }
    let [len, packed, header_start] = numbers;
    let (method, crc) = (u16_at(&fixed, 10), u32_at(&fixed, 16));
    Ok((name, Member { packed, len, crc, method, header_start }))
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

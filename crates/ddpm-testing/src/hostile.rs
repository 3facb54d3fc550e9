//! What tests of damaged files share: bounds on time and memory, and damage that follows from a seed.
#![allow(unsafe_code)] // An allocator that counts can only be written so.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Milliseconds are usual.
const LONGEST: Duration = Duration::from_secs(5);

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// Counts what this thread holds.
struct Counting;

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = NOW.try_with(|now| {
            now.set(now.get().saturating_add(layout.size()));
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
        });
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(layout.size())));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Does something with a file of `size` bytes, which may take `at_least` bytes of memory and `per_byte` times its size.
pub fn within_bounds<T>(size: usize, at_least: usize, per_byte: usize, read: impl FnOnce() -> T) -> T {
    let (before, start) = (NOW.get(), Instant::now());
    PEAK.set(before);
    let result = read();
    let (taken, lasted) = (PEAK.get() - before, start.elapsed());
    assert!(taken <= at_least + per_byte * size, "{taken} bytes of memory for a file of {size}");
    assert!(lasted < LONGEST, "{lasted:?} for a file of {size} bytes");
    result
}

/// Damages a file again and again, and says how many of the damaged ones still can. What is said of the
/// others stays short.
pub fn damage<T>(path: &Path, count: usize, read: impl Fn() -> Result<T, String>) {
    let whole = fs::read(path).unwrap();
    let mut random = Random(20_261_121);
    let mut still = 0;
    for _ in 0..count {
        let mut bytes = whole.clone();
        random.damage(&mut bytes);
        fs::write(path, &bytes).unwrap();
        match read() {
            Ok(_) => still += 1,
            Err(said) => assert!(said.len() < 2000, "{said}"),
        }
    }
    println!("{}: {still} of {count} damaged files are still read", path.file_name().unwrap().display());
    fs::write(path, &whole).unwrap();
}

/// Numbers from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    /// Damages a file in one to three places.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        const EXTREMES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => {
                    let extreme = EXTREMES[self.below(EXTREMES.len())];
                    let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                    // Formats differ in which end of a number comes first.
                    let word = match self.below(2) {
                        0 => extreme.to_le_bytes()[..width].to_vec(),
                        _ => extreme.to_be_bytes()[8 - width..].to_vec(),
                    };
                    bytes[at..at + width].copy_from_slice(&word);
                }
                3 => bytes.truncate(at.max(1)),
                4 => {
                    let end = (at + 1 + self.below(16)).min(bytes.len());
                    bytes.drain(at..end);
                    bytes.push(0);
                }
                _ => {
                    let end = (at + 1 + self.below(64)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, part);
                }
            }
        }
    }
}

//! What becomes of memory between one operation and the next.
#![allow(unsafe_code, reason = "a call into the C library, which takes numbers alone")]

/// Networks of more parameters than this are large: their tensors are so big that pages cost little, and what is kept would
/// be gigabytes.
const LARGE: usize = 100_000_000;

/// Tells the allocator of the C library what suits the training of a network of so many parameters. Where that is not glibc it
/// does nothing.
///
/// Every operation of a step makes new tensors and frees them, and so does the next step. Of small networks what is freed is kept
/// for what is allocated next, in place of being given back to the system, which would have to clear its pages again. Of large
/// ones big tensors have pages of their own, which are given back.
pub fn for_training(parameters: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        const TRIM_THRESHOLD: c_int = -1;
        const MMAP_THRESHOLD: c_int = -3;
        /// The largest size that glibc takes as the first one which gets pages of its own.
        const LARGEST: c_int = 32 << 20;
        const MEBIBYTE: c_int = 1 << 20;

        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }

        let [trim, own_pages] = if parameters > LARGE { [MEBIBYTE; 2] } else { [c_int::MAX, LARGEST] };
        // SAFETY: the signature is that of malloc.h. It sets a number in the allocator, under a lock of its own, and fails for
        // values out of range, after which all is as before.
        unsafe {
            mallopt(TRIM_THRESHOLD, trim);
            mallopt(MMAP_THRESHOLD, own_pages);
        }
    }
}

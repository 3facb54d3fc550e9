//! What becomes of memory between one operation and the next.
#![allow(unsafe_code, reason = "a call into the C library, which takes numbers alone")]

/// Has the allocator keep what is freed for what is allocated next, in place of giving it back to the system, which would
/// have to clear its pages again: every operation of a step makes new tensors and frees them, and so does the next step.
/// For a program to call before it trains: where every step is the next one's memory, no more is held than at the peak. Where
/// the C library is not glibc it does nothing.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        const TRIM_THRESHOLD: c_int = -1;
        const MMAP_THRESHOLD: c_int = -3;
        /// The largest size that glibc takes as the first one which gets pages of its own.
        const LARGEST: c_int = 32 << 20;

        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }

        // SAFETY: the signature is that of malloc.h. It sets a number in the allocator, under a lock of its own, and fails for
        // values out of range, after which all is as before.
        unsafe {
            mallopt(TRIM_THRESHOLD, c_int::MAX);
            mallopt(MMAP_THRESHOLD, LARGEST);
        }
    }
}

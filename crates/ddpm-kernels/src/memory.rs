//! What becomes of memory between one operation and the next, where the C library is glibc; elsewhere nothing changes.
//!
//! Every operation of a step makes new tensors and frees them, and so does the next step. What is given back to the system
//! in between has to be asked for again, and its pages cleared.
#![allow(unsafe_code, reason = "a call into the C library, which takes numbers alone")]

/// Networks of more parameters than this are large: their tensors are so big that pages cost little, and what is kept would
/// be gigabytes.
const LARGE: usize = 100_000_000;

/// The largest size that glibc takes as the first one which gets pages of its own.
const LARGEST: i32 = 32 << 20;
const MEBIBYTE: i32 = 1 << 20;

/// What can be set, by the names and the numbers of malloc.h.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Parameter {
    TrimThreshold = -1,
    MmapThreshold = -3,
    ArenaMax = -8,
}

/// All threads that start from now on allocate from one heap: those that glibc makes for threads give memory back whatever
/// [`for_training`] says. To be called before there are threads.
pub fn one_heap() {
    set(Parameter::ArenaMax, 1);
}

/// What suits the training of a network of so many parameters: what is freed is kept for what is allocated next. Of large
/// networks big tensors have pages of their own, which are given back.
pub fn for_training(parameters: usize) {
    let [trim, own_pages] = if parameters > LARGE { [MEBIBYTE; 2] } else { [i32::MAX, LARGEST] };
    set(Parameter::TrimThreshold, trim);
    set(Parameter::MmapThreshold, own_pages);
}

fn set(_parameter: Parameter, _value: i32) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }

        // SAFETY: the signature is that of malloc.h. It sets a number in the allocator, under a lock of its own, and fails for
        // values out of range, after which all is as before.
        unsafe {
            mallopt(_parameter as c_int, _value);
        }
    }
}

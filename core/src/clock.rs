//! The time that OpenMLS sees: what a call was given, never the machine's.
//!
//! OpenMLS asks the standard library, which asks libc; this crate's own `clock_gettime` stands in for libc's.

use std::sync::atomic::{AtomicU64, Ordering};

static NOW_S: AtomicU64 = AtomicU64::new(0);

pub fn set(now_s: u64) {
    NOW_S.store(now_s, Ordering::Relaxed);
}

#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i32,
}

/// Replaces libc's function of the same name in this module.
///
/// # Safety
/// *time* points to a timespec of wasi-libc, as every caller of `clock_gettime` guarantees.
#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(_clock: *const u8, time: *mut Timespec) -> i32 {
    let now = Timespec { seconds: NOW_S.load(Ordering::Relaxed) as i64, nanoseconds: 0 };
    unsafe { time.write(now) };
    0
}

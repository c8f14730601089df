//! The heap of a process that must stay within its budget.

/// Larger pieces of memory come from the kernel one by one, and go back to it when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const APART: libc::c_int = 1 << 20;

/// Lets memory follow what the process holds.
///
/// glibc raises the size from which it maps memory apart, up to 32 MiB, each time a larger piece is
/// freed: from then on replies and objects of megabytes share a heap with everything that lives long,
/// and leave holes in it that are never given back. Once set, the size stays (mallopt(3),
/// `M_MMAP_THRESHOLD`). What is used again and again does not pay for it: see `stream/arena.rs`.
pub fn follow_use() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "no crate offers this call as a safe one")]
    // SAFETY: it takes numbers, touches nothing but the allocator's settings, and takes its lock.
    unsafe {
        // 0 would be an allocator that has no such setting, and does without.
        libc::mallopt(libc::M_MMAP_THRESHOLD, APART);
    }
}

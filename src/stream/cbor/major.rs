//! Major types and markers (RFC 8949, section 3).

/// Major types (RFC 8949, section 3.1).
pub(super) const UNSIGNED: u8 = 0;
pub(super) const NEGATIVE: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const TEXT: u8 = 3;
pub(super) const ARRAY: u8 = 4;
pub(super) const MAP: u8 = 5;
pub(super) const TAG: u8 = 6;
/// Additional information: no length, but a break at the end.
pub(super) const INDEFINITE: u8 = 31;
pub(super) const BREAK: u8 = 0xff;

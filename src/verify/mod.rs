//! Do the objects under a prefix hold what the lease table says is delivered?

pub mod contents;
pub mod inventory;
pub mod stream;
pub mod tiling;

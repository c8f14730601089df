//! From records to durable objects.

pub mod batch;
pub mod blocks;
pub mod budget;
mod buffers;
mod compress;
pub mod decode;
pub mod encode;
pub mod field;
pub mod object_key;
pub mod partition;
pub mod parts;
pub mod remains;
pub mod route;
pub mod settings;
pub mod uploader;

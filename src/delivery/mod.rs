//! From records to durable objects.

pub mod batch;
pub mod blocks;
pub mod body;
pub mod buffers;
mod compress;
pub mod dead_letter;
pub mod decode;
pub mod encode;
pub mod evidence;
pub mod field;
pub mod gap;
pub mod intent;
pub mod layout;
pub mod object;
pub mod object_key;
pub mod partition;
pub mod parts;
pub mod recipe;
pub mod remains;
pub mod route;
pub mod settings;

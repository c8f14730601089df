//! Embedded AWS and the embedded front door, on loopback only.

pub mod front_door;
pub mod gateway;
pub mod gateway_jwt;
pub mod issuer;
mod jwks;
mod loopback;

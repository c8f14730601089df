//! Embedded AWS: placeholder until its services land.

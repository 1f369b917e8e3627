//! weft
pub mod model;
pub mod policy;

//! (placeholder while the rest compiles)

//! The database by itself.

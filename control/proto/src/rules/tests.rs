//! The rules of rows.

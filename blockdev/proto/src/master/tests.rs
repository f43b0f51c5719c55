//! Tests of the master alone.

//! The connectivity monitor: heartbeats on every rail of one peer, and what they prove.

//! Volumes that are put together from the bytes of several virtual disks: concatenations and stripes (SPEC
//! B9).

mod arrangement;

pub use self::arrangement::{
    Arrangement, ArrangementFault, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Fragment, PARTS_MAX, Share, combined,
};

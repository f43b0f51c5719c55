//! What each block of the load carries: who wrote it, where it belongs, which version it is, and a checksum
//! over all of it. So a block that is old, torn, or in the wrong place shows itself.

use std::fmt;

/// Bytes of one stamped block, which is also the virtual disk's block.
pub(super) const BLOCK_BYTES: usize = 4096;

/// First bytes of a stamped block.
const MAGIC: u64 = 0x6e65_7464_6973_6b21;
/// Where the checksum lies; it covers everything else.
const CHECKSUM_AT: usize = 32;
/// Where the filler begins.
const FILLER_AT: usize = 40;

/// A block of the load's region, counted from the region's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockNumber(pub(super) u64);

/// How often a block has been written; 0 is the block of a new disk, all zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u64);

impl fmt::Display for BlockNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.0)
    }
}

/// Why a block's content is no version of this block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StampFault {
    /// The checksum does not fit: parts of two versions, or bytes that changed on the way.
    Torn,
    /// Whole, and of another block.
    Misplaced {
        /// Where it belongs.
        belongs_to: BlockNumber,
    },
    /// Whole, and written by another run.
    Foreign,
}

impl fmt::Display for StampFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StampFault::Torn => f.write_str("is torn or damaged: its checksum does not fit"),
            StampFault::Misplaced { belongs_to } => write!(f, "holds what belongs to {belongs_to}"),
            StampFault::Foreign => f.write_str("holds what another run wrote"),
        }
    }
}

/// Writes and reads stamps of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamper {
    run: u64,
}

impl Stamper {
    /// `run` tells this run's blocks from those of any other.
    pub(super) fn new(run: u64) -> Stamper {
        Stamper { run }
    }

    /// Fills a block.
    pub(super) fn write(&self, block: BlockNumber, version: Version, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), BLOCK_BYTES, "a stamp covers one block");
        for (at, field) in [(0, MAGIC), (8, self.run), (16, block.0), (24, version.0), (CHECKSUM_AT, 0)] {
            bytes[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        let mut random = Random::new(self.run ^ block.0.rotate_left(32) ^ version.0);
        for word in bytes[FILLER_AT..].chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let checksum = checksum(bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The version that a block holds; a block of zeroes is version 0.
    pub(super) fn read(&self, block: BlockNumber, bytes: &[u8]) -> Result<Version, StampFault> {
        assert_eq!(bytes.len(), BLOCK_BYTES, "a stamp covers one block");
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Version(0));
        }
        let field = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(field)
        };
        if field(0) != MAGIC || field(CHECKSUM_AT) != u64::from(checksum(bytes)) {
            return Err(StampFault::Torn);
        }
        if field(8) != self.run {
            return Err(StampFault::Foreign);
        }
        if field(16) != block.0 {
            return Err(StampFault::Misplaced { belongs_to: BlockNumber(field(16)) });
        }
        Ok(Version(field(24)))
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CHECKSUM_AT]), &bytes[FILLER_AT..])
}

/// Random numbers for filler and for the choice of requests (SplitMix64); nothing that needs to be secret.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "no number is below 0");
        self.next() % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(stamper: Stamper, block: u64, version: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_BYTES];
        stamper.write(BlockNumber(block), Version(version), &mut bytes);
        bytes
    }

    #[test]
    fn a_block_tells_its_version_and_a_new_disk_holds_version_0() {
        let stamper = Stamper::new(7);
        assert_eq!(stamper.read(BlockNumber(3), &stamped(stamper, 3, 9)), Ok(Version(9)));
        assert_eq!(stamper.read(BlockNumber(3), &[0; BLOCK_BYTES]), Ok(Version(0)));
    }

    #[test]
    fn a_block_made_of_two_versions_is_torn_wherever_the_tear_is() {
        let stamper = Stamper::new(7);
        let (old, new) = (stamped(stamper, 3, 1), stamped(stamper, 3, 2));
        for tear in [512, 1024, 2048, 3584, 4088] {
            let torn = [&new[..tear], &old[tear..]].concat();
            assert_eq!(stamper.read(BlockNumber(3), &torn), Err(StampFault::Torn), "torn at {tear}");
            let zeroed = [&new[..tear], &[0; BLOCK_BYTES][tear..]].concat();
            assert_eq!(stamper.read(BlockNumber(3), &zeroed), Err(StampFault::Torn), "zero from {tear}");
        }
    }

    #[test]
    fn one_changed_bit_anywhere_is_seen() {
        let stamper = Stamper::new(7);
        for at in (0..BLOCK_BYTES).step_by(31).chain(0..FILLER_AT) {
            let mut bytes = stamped(stamper, 3, 1);
            bytes[at] ^= 1 << (at % 8);
            assert_eq!(stamper.read(BlockNumber(3), &bytes), Err(StampFault::Torn), "byte {at}");
        }
    }

    #[test]
    fn a_block_in_the_place_of_another_is_misplaced() {
        let stamper = Stamper::new(7);
        let elsewhere = stamped(stamper, 4, 1);
        let fault = StampFault::Misplaced { belongs_to: BlockNumber(4) };
        assert_eq!(stamper.read(BlockNumber(3), &elsewhere), Err(fault));
    }

    #[test]
    fn a_block_of_another_run_is_foreign() {
        let theirs = stamped(Stamper::new(8), 3, 1);
        assert_eq!(Stamper::new(7).read(BlockNumber(3), &theirs), Err(StampFault::Foreign));
    }
}

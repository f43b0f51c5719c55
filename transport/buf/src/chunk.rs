//! A chunk of a slab in its three roles: being written by one owner, shared for reading, or given to a peer.

use crate::custody::Life;
use crate::region::Region;
use crate::slab::{SlabLayout, return_chunk};
use core::fmt;
use std::sync::Arc;

/// A chunk that one owner may write and read. Returned to its slab when dropped.
///
/// The bytes lie in memory that another process may map. They count as owned all the same: both processes
/// belong to one cluster, authenticate each other before memory is exchanged, and the protocol hands a chunk
/// over by ring and returns it by bitmap, never touching it in between. A process that breaks this can spoil
/// the *content* of chunks, which is why netdisk copies what it must check (headers, control parts) before it
/// checks it and treats data as bytes without meaning.
pub struct Chunk {
    region: Arc<Region>,
    offset: usize,
    length: usize,
    capacity: usize,
    index: u32,
}

impl Chunk {
    /// A chunk whose life the allocator has begun.
    pub(crate) fn new(region: Arc<Region>, layout: &SlabLayout, index: u32, length: usize) -> Chunk {
        let (offset, capacity) = layout.locate(index).expect("the allocator gives only chunks that exist");
        assert!(length <= capacity && offset + capacity <= region.len());
        Chunk { region, offset, length, capacity, index }
    }

    /// Takes up a chunk that a peer filled and handed over: index and length are the peer's words and are
    /// checked.
    /// `None`: no such chunk, the length does not fit, or the chunk is in this process's hands already.
    ///
    /// The caller vouches by protocol that the chunk was handed over (its ring slot was published).
    pub fn take_up(region: &Arc<Region>, layout: &SlabLayout, index: u32, length: usize) -> Option<Chunk> {
        let (offset, capacity) = layout.locate(index)?;
        if length > capacity
            || offset + capacity > region.len()
            || !region.custody(layout.chunks()).begin(index)
        {
            return None;
        }
        Some(Chunk { region: region.clone(), offset, length, capacity, index })
    }

    /// Its number in the slab.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the bytes in use. Panics past the capacity (a bug of the caller).
    pub fn set_length(&mut self, length: usize) {
        assert!(length <= self.capacity);
        self.length = length;
    }

    /// The region it lies in.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Where in the region its first byte lies.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Address of the first byte, page aligned; valid for [`Chunk::capacity`] bytes while the chunk is held.
    pub fn pointer(&self) -> *mut u8 {
        self.region.pointer(self.offset)
    }

    /// Ends writing; readers may now share it. It returns to its slab with the last of them.
    pub fn share(self) -> SharedChunk {
        SharedChunk(self.place())
    }

    /// Ends writing a chunk that is meant for the peer in whose slab it lies. Whoever sends it hands it over
    /// ([`PlacedChunk::hand_over`]); this side may still read it then (to send it again by another rail), but
    /// the peer returns it. A chunk that is never handed over returns with the last handle.
    pub fn place(self) -> PlacedChunk {
        let life = self.region.custody_in_use().place(self.index);
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so the Arc is moved out exactly once.
        let region = unsafe { core::ptr::read(&this.region) };
        PlacedChunk { region, offset: this.offset, length: this.length, index: this.index, life }
    }

    /// Hands the chunk to the peer in whose slab it lies, at once and for good: the peer returns it.
    pub fn give_away(self) -> u32 {
        let index = self.index;
        self.region.custody_in_use().end(index);
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so the Arc is moved out exactly once.
        drop(unsafe { core::ptr::read(&this.region) });
        index
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.region.custody_in_use().end(self.index);
        return_chunk(&self.region, self.index);
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the chunk lies inside the mapping, which `region` keeps alive; it is owned by `self` by the
        // protocol that the type's documentation states.
        unsafe { core::slice::from_raw_parts(self.region.pointer(self.offset), self.length) }
    }
}

impl AsMut<[u8]> for Chunk {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_ref`, and `self` is borrowed mutably, so there is no other reference in this
        // process.
        unsafe { core::slice::from_raw_parts_mut(self.region.pointer(self.offset), self.length) }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("index", &self.index)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// A chunk that is only read from now on, by any number of holders on any thread.
///
/// A placed chunk that is never handed over: its handles are counted in the region's custody table, so
/// sharing allocates nothing.
#[derive(Clone, Debug)]
pub struct SharedChunk(PlacedChunk);

impl SharedChunk {
    /// The region it lies in; a provider compares it with those that it has registered with a device.
    pub fn region(&self) -> &Arc<Region> {
        &self.0.region
    }

    /// Where in the region its first byte lies.
    pub fn offset(&self) -> usize {
        self.0.offset
    }
}

impl AsRef<[u8]> for SharedChunk {
    fn as_ref(&self) -> &[u8] {
        let chunk = &self.0;
        // SAFETY: the chunk lies inside the mapping, which its region keeps alive. Nobody writes it: its one
        // owner ended writing when it was shared, it is not handed over (this type has no way to), and it
        // returns to its slab only with the last handle.
        unsafe { core::slice::from_raw_parts(chunk.region.pointer(chunk.offset), chunk.length) }
    }
}

/// A chunk filled in the slab of the peer that it is meant for; kept for reading until the peer acknowledged
/// it.
pub struct PlacedChunk {
    region: Arc<Region>,
    offset: usize,
    length: usize,
    index: u32,
    life: Life,
}

impl Clone for PlacedChunk {
    fn clone(&self) -> PlacedChunk {
        self.region.custody_in_use().add_handle(self.index, self.life);
        PlacedChunk { region: self.region.clone(), ..*self }
    }
}

impl Drop for PlacedChunk {
    fn drop(&mut self) {
        if self.region.custody_in_use().drop_handle(self.index, self.life) {
            return_chunk(&self.region, self.index);
        }
    }
}

impl PlacedChunk {
    /// Its number in the slab.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The region it lies in; a provider compares it to know whether a chunk is in its own peer's slab.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Hands the chunk over to the peer, which returns it from now on. `false`: that happened before, and the
    /// chunk may carry something else by now.
    pub fn hand_over(&self) -> bool {
        self.region.custody_in_use().hand_over(self.index, self.life)
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies `out.len()` bytes from `offset` on. Once the peer has the message it may reuse the chunk, then
    /// this yields bytes of no meaning; the peer drops such a message as a duplicate. Panics past the end.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        assert!(offset.checked_add(out.len()).is_some_and(|end| end <= self.length));
        let from = self.region.pointer(self.offset + offset);
        // SAFETY: source is inside the mapping, destination is a caller's slice of that length, and the two
        // cannot overlap, since no safe slice of this chunk exists in this process any more.
        unsafe { core::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
    }
}

impl fmt::Debug for PlacedChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlacedChunk")
            .field("index", &self.index)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

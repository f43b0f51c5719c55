//! Things under way, by number: the place of one that ended is used again, under another generation.

use alloc::vec::Vec;

/// A request of a volume to a virtual disk that it lies on; given back once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoId {
    /// Dense number, for the caller's own table.
    pub index: u32,
    /// Which use of that number.
    pub generation: u32,
}

#[derive(Debug)]
struct Place<T> {
    value: Option<T>,
    generation: u32,
}

/// Values by number.
#[derive(Debug)]
pub(crate) struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    pub(crate) fn insert(&mut self, value: T) -> IoId {
        let index = self.free.pop().unwrap_or(self.places.len() as u32);
        if index as usize == self.places.len() {
            self.places.push(Place { value: None, generation: 0 });
        }
        let place = &mut self.places[index as usize];
        place.value = Some(value);
        IoId { index, generation: place.generation }
    }

    /// Takes a value out; `None` if that use of the number is over.
    pub(crate) fn remove(&mut self, id: IoId) -> Option<T> {
        let place =
            self.places.get_mut(id.index as usize).filter(|place| place.generation == id.generation)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(value)
    }

    pub(crate) fn take(&mut self, index: u32) -> Option<T> {
        let generation = self.places.get(index as usize)?.generation;
        self.remove(IoId { index, generation })
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.places.get(index as usize)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.places.get_mut(index as usize)?.value.as_mut()
    }

    /// All of them with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let numbered = self.places.iter().enumerate();
        numbered.filter_map(|(index, place)| place.value.as_ref().map(|value| (index as u32, value)))
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything ends.
    pub(crate) fn clear(&mut self) {
        for index in 0..self.places.len() as u32 {
            self.take(index);
        }
    }
}

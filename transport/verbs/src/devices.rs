//! The devices that are open: who uses them, and what they say by themselves.

use crate::fabric::{DeviceEvent, DeviceId, Fabric};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::os::fd::{AsRawFd, RawFd};

/// Devices that are open at once at the most.
pub(crate) const DEVICES_MAX: usize = 8;
/// Tokens of a device: completions, events.
pub(crate) const TOKENS_PER_DEVICE: usize = 2;

/// An open device.
#[derive(Debug)]
struct Device {
    id: DeviceId,
    descriptors: [RawFd; TOKENS_PER_DEVICE],
    /// It is gone or broken: closed as soon as no connection has a queue on it.
    gone: bool,
    /// It was found missing, which is still to be told.
    missing: bool,
    /// It may have something to say.
    calls: bool,
}

/// All open devices of a provider.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    all: [Option<Device>; DEVICES_MAX],
    /// Whether one may have something to say.
    pub(crate) call: bool,
}

impl Devices {
    /// Watches a device. `false`: there are too many, or the kernel refuses.
    pub(crate) fn watch(
        &mut self,
        fabric: &impl Fabric,
        registry: &Registry,
        first_token: usize,
        id: DeviceId,
    ) -> bool {
        if let Some(device) = self.all.iter().flatten().find(|device| device.id == id) {
            return !device.gone;
        }
        let Some(place) = self.all.iter().position(Option::is_none) else { return false };
        let descriptors = [fabric.completions(id).as_raw_fd(), fabric.events(id).as_raw_fd()];
        for (number, descriptor) in descriptors.iter().enumerate() {
            let token = Token(first_token + place * TOKENS_PER_DEVICE + number);
            if registry.register(&mut SourceFd(descriptor), token, Interest::READABLE).is_err() {
                return false;
            }
        }
        self.all[place] = Some(Device { id, descriptors, gone: false, missing: false, calls: false });
        true
    }

    /// A token of the devices' range became ready.
    pub(crate) fn event(&mut self, fabric: &mut impl Fabric, number: usize) {
        let Some(Some(device)) = self.all.get_mut(number / TOKENS_PER_DEVICE) else { return };
        if number.is_multiple_of(TOKENS_PER_DEVICE) {
            fabric.take_bells(device.id);
        } else {
            device.calls = true;
            self.call = true;
        }
    }

    /// Looks whether each device is still there.
    pub(crate) fn look(&mut self, fabric: &impl Fabric) {
        for device in self.all.iter_mut().flatten().filter(|device| !device.gone) {
            if !fabric.is_present(device.id) {
                (device.missing, device.calls) = (true, true);
                self.call = true;
            }
        }
    }

    /// The next thing that a device said. `Gone` is remembered.
    pub(crate) fn next(&mut self, fabric: &mut impl Fabric) -> Option<(DeviceId, DeviceEvent)> {
        for device in self.all.iter_mut().flatten().filter(|device| device.calls) {
            let missing = core::mem::take(&mut device.missing).then_some(DeviceEvent::Gone);
            if let Some(event) = missing.or_else(|| fabric.next_event(device.id)) {
                if event == DeviceEvent::Gone && core::mem::replace(&mut device.gone, true) {
                    // It was told already.
                    continue;
                }
                return Some((device.id, event));
            }
            device.calls = false;
        }
        self.call = false;
        None
    }

    /// Devices that are gone.
    pub(crate) fn gone(&self) -> impl Iterator<Item = DeviceId> {
        self.all.iter().flatten().filter(|device| device.gone).map(|device| device.id)
    }

    /// Forgets a device that is about to be closed.
    pub(crate) fn forget(&mut self, registry: &Registry, id: DeviceId) {
        for place in &mut self.all {
            if let Some(device) = place.take_if(|device| device.id == id) {
                for descriptor in device.descriptors {
                    // Closing the descriptor ends the watch all the same.
                    let _ = registry.deregister(&mut SourceFd(&descriptor));
                }
            }
        }
    }
}

//! Devices: opened, asked, and heard.

use super::tables::entries;
use crate::fabric::{DeviceEvent, DeviceId};
use rdma_sys::{
    ___ibv_query_port, ibv_ack_async_event, ibv_ack_cq_events, ibv_alloc_pd, ibv_async_event,
    ibv_close_device, ibv_comp_channel, ibv_context, ibv_cq, ibv_create_comp_channel, ibv_dealloc_pd,
    ibv_destroy_comp_channel, ibv_device, ibv_event_type, ibv_free_device_list, ibv_get_async_event,
    ibv_get_cq_event, ibv_get_device_list, ibv_get_device_name, ibv_open_device, ibv_pd, ibv_port_attr,
    ibv_port_state,
};
use rustix::fs::OFlags;
use std::cell::Cell;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// Where the kernel lists the doors by which programs reach them; a door goes as soon as its device is
/// removed.
const DOORS: &str = "/sys/class/infiniband_verbs";
/// Right to lock any amount of memory: bit of `CapEff`.
const CAP_IPC_LOCK: u32 = 14;

/// Whether this process may lock memory beyond its limit.
pub(super) fn may_lock_any() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 != 0)
}

/// What is asked of a port.
pub(super) struct PortAttributes {
    pub(super) is_active: bool,
    pub(super) active_mtu: u8,
}

/// An open device.
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) name: String,
    context: NonNull<ibv_context>,
    domain: NonNull<ibv_pd>,
    channel: NonNull<ibv_comp_channel>,
    completions: libc::c_int,
    events: libc::c_int,
    gone: Cell<bool>,
    /// Its door, if the kernel tells.
    door: Option<PathBuf>,
}

fn door(name: &str) -> Option<PathBuf> {
    let doors = entries(Path::new(DOORS)).into_iter().map(|door| Path::new(DOORS).join(door));
    let leads_there =
        |door: &PathBuf| std::fs::read_to_string(door.join("ibdev")).is_ok_and(|text| text.trim() == name);
    doors.into_iter().find(leads_there)
}

impl Device {
    pub(super) fn open(name: &str, id: DeviceId) -> io::Result<Device> {
        let context = open_context(name)?;
        // SAFETY: the context is open.
        let Some(domain) = NonNull::new(unsafe { ibv_alloc_pd(context.as_ptr()) }) else {
            return Err(close_after_error(context));
        };
        // SAFETY: the context is open.
        let Some(channel) = NonNull::new(unsafe { ibv_create_comp_channel(context.as_ptr()) }) else {
            let error = io::Error::last_os_error();
            // SAFETY: made above, used by nothing.
            unsafe { ibv_dealloc_pd(domain.as_ptr()) };
            close_context(context);
            return Err(error);
        };
        // SAFETY: the library has just made it; the field does not change.
        let completions = unsafe { channel.as_ref() }.fd;
        // SAFETY: the context is open; the field does not change.
        let events = unsafe { context.as_ref() }.async_fd;
        let door = door(name);
        let name = name.to_string();
        let gone = Cell::new(false);
        let device = Device { id, name, context, domain, channel, completions, events, gone, door };
        for descriptor in [device.completions(), device.events()] {
            let flags = rustix::fs::fcntl_getfl(descriptor)?;
            rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK)?;
        }
        Ok(device)
    }

    /// Whether the kernel still has it; one that is gone never is again.
    pub(super) fn is_present(&self) -> bool {
        if self.door.as_ref().is_some_and(|door| !door.exists()) {
            self.gone.set(true);
        }
        !self.gone.get()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    pub(super) fn domain(&self) -> *mut ibv_pd {
        self.domain.as_ptr()
    }

    pub(super) fn context(&self) -> *mut ibv_context {
        self.context.as_ptr()
    }

    pub(super) fn channel(&self) -> *mut ibv_comp_channel {
        self.channel.as_ptr()
    }

    pub(super) fn completions(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel keeps its descriptor open until it is destroyed, which takes `self`.
        unsafe { BorrowedFd::borrow_raw(self.completions) }
    }

    pub(super) fn events(&self) -> BorrowedFd<'_> {
        // SAFETY: the context keeps its descriptor open until it is closed, which takes `self`.
        unsafe { BorrowedFd::borrow_raw(self.events) }
    }

    pub(super) fn query_port(&self, number: u8) -> io::Result<PortAttributes> {
        let mut attributes = MaybeUninit::<ibv_port_attr>::zeroed();
        // SAFETY: the context is open; the library writes at most one such structure.
        let refused = unsafe { ___ibv_query_port(self.context.as_ptr(), number, attributes.as_mut_ptr()) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused.abs()));
        }
        // SAFETY: all zero is a value of it, and the library filled it in.
        let attributes = unsafe { attributes.assume_init() };
        Ok(PortAttributes {
            is_active: attributes.state == ibv_port_state::IBV_PORT_ACTIVE,
            active_mtu: attributes.active_mtu as u8,
        })
    }

    /// Takes the events of armed queues and acknowledges each: destroying a queue waits for that.
    pub(super) fn take_bells(&self) {
        loop {
            let mut queue: *mut ibv_cq = core::ptr::null_mut();
            let mut tag = core::ptr::null_mut();
            // SAFETY: the channel is open and its descriptor does not block; both pointers are to locals.
            let none = unsafe { ibv_get_cq_event(self.channel.as_ptr(), &raw mut queue, &raw mut tag) };
            if none != 0 {
                return;
            }
            // SAFETY: the library has just given this event of this queue, which is not destroyed, since
            // destroying it takes its events out of the channel.
            unsafe { ibv_ack_cq_events(queue, 1) };
        }
    }

    /// The next thing the device says.
    pub(super) fn next_event(&self) -> Option<DeviceEvent> {
        let mut event = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: the context is open and its descriptor does not block; the library writes one event.
        let none = unsafe { ibv_get_async_event(self.context.as_ptr(), event.as_mut_ptr()) };
        if none != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock || error.kind() == io::ErrorKind::Interrupted {
                return None;
            }
            // The kernel lets go of a device that was removed: its descriptor fails from then on.
            return (!self.gone.replace(true)).then_some(DeviceEvent::Gone);
        }
        // The kind as a number: a newer kernel knows kinds that the enumeration of these bindings does not
        // have, and a value outside of it must never come to be.
        let field = core::mem::offset_of!(ibv_async_event, event_type);
        let kind = event.as_ptr().cast::<u8>().wrapping_add(field).cast::<u32>();
        // SAFETY: the structure was filled in; the pointer is to its field, aligned and as large as a `u32`.
        let kind = unsafe { kind.read() };
        // SAFETY: the library has just given this event.
        unsafe { ibv_ack_async_event(event.as_mut_ptr()) };
        let is = |known: ibv_event_type| kind == known as u32;
        Some(if is(ibv_event_type::IBV_EVENT_DEVICE_FATAL) {
            self.gone.set(true);
            DeviceEvent::Gone
        } else if is(ibv_event_type::IBV_EVENT_PORT_ERR) {
            DeviceEvent::PortDown
        } else if is(ibv_event_type::IBV_EVENT_PORT_ACTIVE) {
            DeviceEvent::PortUp
        } else if is(ibv_event_type::IBV_EVENT_GID_CHANGE) {
            DeviceEvent::AddressesChanged
        } else {
            DeviceEvent::Other
        })
    }

    pub(super) fn close(self) {
        // SAFETY: every queue that used the channel is destroyed (the caller's promise).
        unsafe { ibv_destroy_comp_channel(self.channel.as_ptr()) };
        // SAFETY: every queue and registration in the domain is gone (the caller's promise).
        unsafe { ibv_dealloc_pd(self.domain.as_ptr()) };
        close_context(self.context);
    }
}

fn close_context(context: NonNull<ibv_context>) {
    // SAFETY: opened by `open_context`, nothing of it is used any more.
    unsafe { ibv_close_device(context.as_ptr()) };
}

fn close_after_error(context: NonNull<ibv_context>) -> io::Error {
    let error = io::Error::last_os_error();
    close_context(context);
    error
}

fn open_context(name: &str) -> io::Result<NonNull<ibv_context>> {
    let mut count = 0;
    // SAFETY: the pointer is to a local.
    let list = NonNull::new(unsafe { ibv_get_device_list(&raw mut count) });
    let list = list.ok_or_else(io::Error::last_os_error)?;
    let mut opened = Err(io::ErrorKind::NotFound.into());
    for place in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the list has `count` entries.
        let entry = unsafe { list.as_ptr().add(place) };
        // SAFETY: as above, and the list is not freed yet.
        let device: *mut ibv_device = unsafe { entry.read() };
        // SAFETY: an entry of the list.
        let text = unsafe { ibv_get_device_name(device) };
        // SAFETY: the library returns a string that lives as long as the list.
        let is_it = !text.is_null() && unsafe { CStr::from_ptr(text) }.to_bytes() == name.as_bytes();
        if is_it {
            // SAFETY: an entry of the list, which is freed after this.
            let context = NonNull::new(unsafe { ibv_open_device(device) });
            opened = context.ok_or_else(io::Error::last_os_error);
            break;
        }
    }
    // SAFETY: got from `ibv_get_device_list`, freed once; open contexts do not need it.
    unsafe { ibv_free_device_list(list.as_ptr()) };
    opened
}

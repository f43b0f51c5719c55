//! Runs a test in a thread with mounts of its own, which vanish with the thread.
#![allow(dead_code)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Runs `body` in a mount namespace of its own, with a directory to mount on; skips it loudly where this user
/// may not make one.
pub(crate) fn with_private_mounts(body: impl FnOnce(&Path) + Send + 'static) {
    let place = super::TestPath::on_disk().0.clone();
    std::fs::create_dir(&place).expect("a mount point");
    let inside = place.clone();
    let ran = std::thread::spawn(move || {
        // SAFETY: concerns this thread only, which ends with the test.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        if unshared != 0 {
            eprintln!("SKIPPED: no private mounts: {}", std::io::Error::last_os_error());
            return;
        }
        mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "");
        body(&inside);
    });
    let ran = ran.join();
    let removed = std::fs::remove_dir(&place);
    if let Err(panic) = ran {
        std::panic::resume_unwind(panic);
    }
    removed.expect("the mount vanished with its thread");
}

/// Mounts; panics when refused.
pub(crate) fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) {
    let text = |text: &[u8]| CString::new(text).expect("no zero byte in a path");
    let (source, kind, data) = (text(source.as_bytes()), text(kind.as_bytes()), text(data.as_bytes()));
    let target = text(target.as_os_str().as_bytes());
    // SAFETY: four strings that end in zero and outlive the call.
    let done =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    assert_eq!(done, 0, "mount on {target:?}: {}", std::io::Error::last_os_error());
}

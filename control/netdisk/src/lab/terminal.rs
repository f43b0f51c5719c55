//! The person's terminal, handed over to a shell in the guest.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;

/// Rows and columns; those of old where the terminal does not tell.
pub(crate) fn size() -> (u16, u16) {
    let found = tcgetwinsize(io::stdout()).map(|size| (size.ws_row, size.ws_col));
    found.ok().filter(|(rows, columns)| *rows > 0 && *columns > 0).unwrap_or((24, 80))
}

/// Every key goes to the guest as it is typed; the terminal is as before when this is dropped.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    pub(crate) fn enter() -> io::Result<Raw> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

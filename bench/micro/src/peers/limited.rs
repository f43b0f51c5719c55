//! A program that may hang, and must not take the bench with it.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What `timeout` exits with when it ended the program.
const OVERRUN: i32 = 124;
/// From asking it to end to killing it.
const GRACE: &str = "--kill-after=5";

/// The program, ended after so long. Arguments and environment are the caller's to add.
pub(super) fn command(program: &str, limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg(GRACE).arg(format!("{}", limit.as_secs().max(1))).arg(program).stdin(Stdio::null());
    command
}

/// Runs it and returns what it said, if it ended well.
///
/// # Errors
/// It cannot be started, failed, or did not end; what it said is told, but for reports of many lines.
pub(super) fn output(mut command: Command, name: &str) -> Result<Output> {
    let output = command.output().with_context(|| format!("{name} cannot be started"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout);
    let told = told.split('{').next().unwrap_or_default();
    match output.status.code() {
        Some(0) => Ok(output),
        Some(OVERRUN) => bail!("{name} hung and was ended: {}{}", said.trim(), told.trim()),
        _ => bail!("{name} failed ({}): {}{}", output.status, said.trim(), told.trim()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{command, output};

    #[test]
    fn a_program_that_hangs_is_ended_and_one_that_fails_is_told() {
        let mut hangs = command("sleep", Duration::from_secs(1));
        hangs.arg("60");
        assert!(output(hangs, "sleep").unwrap_err().to_string().contains("hung"));
        let mut fails = command("sh", Duration::from_secs(10));
        fails.args(["-c", "echo a reason >&2; exit 3"]);
        let said = output(fails, "sh").unwrap_err().to_string();
        assert!(said.contains("a reason") && said.contains('3'), "{said}");
    }
}

//! Bytes that nobody can guess.

use anyhow::anyhow;

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|fault| anyhow!("the system has no randomness: {fault}"))?;
    Ok(bytes)
}

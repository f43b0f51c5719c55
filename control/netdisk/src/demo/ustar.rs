//! A tar archive (POSIX ustar) of plain files: what the demo packs where no file system can be made.

use anyhow::{Context, bail};
use std::io::Write;
use std::path::Path;

/// Unit of the format; a file's bytes are padded to it.
const RECORD_BYTES: usize = 512;
/// Longest name that fits without a prefix.
const NAME_BYTES_MAX: usize = 100;
const PREFIX_BYTES_MAX: usize = 155;

/// Appends one file.
pub(super) fn append(out: &mut impl Write, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    out.write_all(&header(name, bytes.len())?)?;
    out.write_all(bytes)?;
    let padding = bytes.len().next_multiple_of(RECORD_BYTES) - bytes.len();
    out.write_all(&[0; RECORD_BYTES][..padding])?;
    Ok(())
}

/// Ends the archive.
pub(super) fn finish(out: &mut impl Write) -> anyhow::Result<()> {
    out.write_all(&[0; 2 * RECORD_BYTES]).context("ending the archive")
}

fn header(name: &str, length: usize) -> anyhow::Result<[u8; RECORD_BYTES]> {
    let (prefix, name) = split(name)?;
    let mut header = [0; RECORD_BYTES];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{length:011o}\0"));
    put(136, "00000000000\0");
    // The sum counts its own field as blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(345, prefix);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

/// A long name goes in two parts, cut at a slash.
fn split(name: &str) -> anyhow::Result<(&str, &str)> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(("", name));
    }
    let cut = name
        .match_indices('/')
        .map(|(at, _)| at)
        .find(|at| *at <= PREFIX_BYTES_MAX && name.len() - at - 1 <= NAME_BYTES_MAX);
    match cut {
        Some(at) => Ok((&name[..at], &name[at + 1..])),
        None => bail!("the name of {} is too long for a tar archive", Path::new(name).display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_padded_files_a_valid_sum_and_an_end() {
        let mut archive = Vec::new();
        append(&mut archive, "folder/file", b"hello").unwrap();
        finish(&mut archive).unwrap();
        assert_eq!(archive.len(), 4 * RECORD_BYTES);
        assert_eq!(&archive[..11], b"folder/file");
        assert_eq!(&archive[124..136], b"00000000005\0");
        assert_eq!(&archive[257..265], b"ustar\x0000");
        assert_eq!(&archive[RECORD_BYTES..RECORD_BYTES + 6], b"hello\0");
        let told = std::str::from_utf8(&archive[148..154]).unwrap();
        let blanked = [&archive[..148], &[b' '; 8][..], &archive[156..RECORD_BYTES]].concat();
        let sum: u32 = blanked.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(u32::from_str_radix(told, 8).unwrap(), sum);
    }

    #[test]
    fn a_long_name_is_cut_at_a_slash_and_an_impossible_one_is_refused() {
        let (folder, file) = ("d".repeat(120), "f".repeat(90));
        assert_eq!(split(&format!("{folder}/{file}")).unwrap(), (folder.as_str(), file.as_str()));
        assert!(split(&"n".repeat(101)).is_err());
    }
}
